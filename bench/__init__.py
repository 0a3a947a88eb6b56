"""What is measured, against whom: ``python -m bench.NAME`` prints a table and writes ``.local/bench/NAME.json``."""
