"""What the local SageMaker of a stack has run."""

from __future__ import annotations

from include.laptop.stack import Stack


def list_jobs(stack: Stack) -> list[str]:
    client = stack.client("sagemaker")
    training = [
        job["TrainingJobName"] for page in client.get_paginator("list_training_jobs").paginate() for job in page["TrainingJobSummaries"]
    ]
    processing = [
        job["ProcessingJobName"]
        for page in client.get_paginator("list_processing_jobs").paginate()
        for job in page["ProcessingJobSummaries"]
    ]
    return training + processing
