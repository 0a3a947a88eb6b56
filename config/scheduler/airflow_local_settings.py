"""Airflow imports this module, found on the scheduler's PYTHONPATH, when the scheduler starts.

LocalExecutor forks a process for every task, and what the scheduler has imported no task imports again: of the provider's SageMaker operators
that is two to three seconds of a processor for each task, and a job is two tasks (start and resume). Only packages that are installed belong
here: the project's own modules must be read anew by every task, so that an edit counts at once. No threads may start at import.
"""

# ruff: noqa: F401 -- imported for the tasks that are forked later

import airflow.providers.amazon.aws.hooks.s3
import airflow.providers.amazon.aws.hooks.sagemaker
import airflow.providers.amazon.aws.hooks.sns
import airflow.providers.amazon.aws.notifications.sns
import airflow.providers.amazon.aws.operators.sagemaker
import airflow.providers.amazon.aws.triggers.sagemaker
import airflow.providers.standard.operators.hitl
