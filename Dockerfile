# Four images from one file; `docker compose build` makes all but jobs-spark.
#   jobs       what SageMaker runs: training, processing and model servers. Push this one to ECR. No Airflow in it
#   jobs-spark the same with Java and PySpark
#   airflow    Airflow's components, with the DAGs and plugins
#   ministack  S3, DynamoDB, SNS, SQS, CloudWatch, Logs and STS for a machine without AWS
FROM python:3.11-slim-bookworm AS base
ENV LANG=C.UTF-8 PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore \
    GX_ANALYTICS_ENABLED=false SCARF_NO_ANALYTICS=true DO_NOT_TRACK=1
RUN groupadd --gid 50000 fraud && useradd --uid 50000 --gid fraud --create-home fraud \
    && install -d -o fraud -g fraud /opt/fraud /state /secrets
WORKDIR /opt/fraud

FROM base AS jobs
COPY requirements-jobs.txt .
RUN pip install -r requirements-jobs.txt
# Whom the gateway runs as where it shares a volume with Airflow (docker-compose.yaml), and a place for its state.
RUN groupadd --gid 50001 gateway && useradd --uid 50001 --gid gateway --create-home gateway && install -d -o gateway -g gateway /gateway
COPY include include
ENV PYTHONPATH=/opt/fraud
# SageMaker appends `train` or `serve`, or the arguments of a processing job. It mounts /opt/ml as root's, so the image names no other user.
ENTRYPOINT ["python", "-m", "include.jobs"]

# The same with Spark, for features_engine = "spark": `docker build --target jobs-spark`.
FROM jobs AS jobs-spark
RUN apt-get update && apt-get install --yes --no-install-recommends openjdk-17-jre-headless && rm -rf /var/lib/apt/lists/*
COPY requirements-spark.txt .
RUN pip install -r requirements-spark.txt

FROM base AS airflow
COPY requirements.txt .
RUN pip install -r requirements.txt
COPY include include
COPY dags dags
COPY plugins plugins
COPY config config
ENV PYTHONPATH=/opt/fraud:/opt/fraud/plugins AIRFLOW_HOME=/state \
    AIRFLOW__CORE__DAGS_FOLDER=/opt/fraud/dags AIRFLOW__CORE__PLUGINS_FOLDER=/opt/fraud/plugins AIRFLOW__CORE__LOAD_EXAMPLES=False
USER fraud
ENTRYPOINT ["airflow"]

FROM base AS ministack
COPY requirements-ministack.txt .
RUN pip install -r requirements-ministack.txt
USER fraud
ENTRYPOINT ["python", "-m", "ministack"]
