"""The one place that speaks to AWS storage: S3 layout, partitions, model registry.

Stores are made at the edge and handed in; lifecycle never imports them.
"""
