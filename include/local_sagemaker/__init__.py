"""A SageMaker of our own: runs training and processing jobs as processes and hosts endpoints, behind the AWS API.

Start it with ``python -m include.local_sagemaker --state DIR --images FILE.json``. It speaks only the AWS API: any
boto3 client with ``endpoint_url`` set to it works, and nothing else in this project imports it. What a job or a model
server is promised comes from the SageMaker developer guide and botocore's service model; see each module's docstring.
"""

__version__ = "0.1.0"
