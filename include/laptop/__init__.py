"""The laptop: brings up Airflow, the local SageMaker and MiniStack as processes of this machine, and walks through the main job."""
