"""``python -m include.local_sagemaker --state DIR --images FILE.json [--host 127.0.0.1] [--port 0] …``"""

from __future__ import annotations

import argparse
import ipaddress
import logging
import os
import sys
from pathlib import Path

import uvloop

from .config import Settings
from .images import load_images
from .preload import ISOLATIONS
from .server import AlreadyRunning, only_server, serve


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m include.local_sagemaker", description="A SageMaker that runs on this machine.")
    defaults = Settings(Path())
    parser.add_argument("--state", type=Path, required=True, help="directory for state, job directories and logs (one server at a time)")
    parser.add_argument(
        "--images", type=Path, required=True, help="JSON file: image URI -> command, working_directory, environment, preload"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (loopback only, unless --allow-non-loopback)")
    parser.add_argument("--port", type=int, default=0, help="port to listen on; 0 chooses one (see server.json in the state directory)")
    parser.add_argument("--allow-non-loopback", action="store_true", help="listen on --host even if other machines can reach it")
    parser.add_argument("--region", default=os.environ.get("AWS_DEFAULT_REGION", defaults.region))
    parser.add_argument("--account", default=defaults.account, help="account id in ARNs (12 digits)")
    parser.add_argument(
        "--job-stop-grace", type=float, default=defaults.job_stop_grace_seconds, metavar="SECONDS", help="SIGTERM to SIGKILL, jobs"
    )
    parser.add_argument(
        "--endpoint-stop-grace", type=float, default=defaults.endpoint_stop_grace_seconds, metavar="SECONDS", help="the same, model servers"
    )
    parser.add_argument(
        "--startup-health-check",
        type=float,
        default=defaults.startup_health_check_seconds,
        metavar="SECONDS",
        help="time for a model server to become healthy, unless its variant says otherwise",
    )
    parser.add_argument(
        "--metrics-interval", type=float, default=defaults.metrics_interval_seconds, metavar="SECONDS", help="between flushes to CloudWatch"
    )
    parser.add_argument(
        "--capture-interval", type=float, default=defaults.capture_interval_seconds, metavar="SECONDS", help="between files of captured requests"
    )
    parser.add_argument(
        "--max-concurrent-jobs", type=int, default=defaults.max_concurrent_jobs, help="jobs beyond it wait in status InProgress"
    )
    parser.add_argument(
        "--isolation", choices=("auto", *ISOLATIONS), default="auto", help="of jobs from the machine; auto: the most that works"
    )
    parser.add_argument("--keep-job-directories", action="store_true", help="keep each job's /opt/ml after its end, to look into")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """Serve; the exit code."""
    options = parse(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("botocore").setLevel(logging.WARNING)
    if not _loopback(options.host) and not options.allow_non_loopback:
        print(f"--host {options.host} is not a loopback address: anyone who reaches it could run commands here. "
              "Use 127.0.0.1, or add --allow-non-loopback if the network is private (docker compose).", file=sys.stderr)  # fmt: skip
        return 2
    if not (options.account.isdigit() and len(options.account) == 12):
        print(f"--account {options.account!r} must be 12 digits", file=sys.stderr)
        return 2
    try:
        images = load_images(options.images)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    state = options.state.resolve()
    state.mkdir(parents=True, exist_ok=True)
    settings = Settings(
        state=state,
        region=options.region,
        account=options.account,
        job_stop_grace_seconds=options.job_stop_grace,
        endpoint_stop_grace_seconds=options.endpoint_stop_grace,
        startup_health_check_seconds=options.startup_health_check,
        metrics_interval_seconds=options.metrics_interval,
        capture_interval_seconds=options.capture_interval,
        max_concurrent_jobs=options.max_concurrent_jobs,
        isolation=options.isolation,
        keep_job_directories=options.keep_job_directories,
    )
    try:
        with only_server(state):
            uvloop.run(serve(settings, images, options.host, options.port))
    except AlreadyRunning as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        print(f"cannot listen on {options.host}:{options.port}: {error}", file=sys.stderr)
        return 1
    return 0


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
