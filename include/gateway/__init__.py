"""The gateway: what a payment or claims system asks. It stands in front of the domains' endpoints, chooses the model that decides, writes down
every decision before it answers, and takes what became of the events. ``python -m include.gateway --help``."""
