"""``python -m include.gateway --port 8090 --store URL --bucket NAME --state DIR […]`` serves; ``python -m include.gateway key NAME --keys FILE``
makes an API key."""

from __future__ import annotations

import argparse
import ipaddress
import logging
import os
import sys
from pathlib import Path

import boto3
import uvicorn
from botocore.exceptions import BotoCoreError, ClientError

from include import domains
from include.gateway.app import application
from include.gateway.guard import Access
from include.gateway.keys import RIGHTS, USUAL, KeysError, add_key
from include.gateway.service import Options, StateInUse, only_gateway
from include.stores.experiments import open_store

_SHUTDOWN_SECONDS = 10
_MOST_CONNECTIONS = 512
"""Of clients; more are answered 503. With those to the endpoints (``scoring.MOST_AT_ONCE`` a domain) they must fit into the usual 1,024 files of a
process: without one for its log the gateway decides nothing."""


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m include.gateway", description=__doc__)
    parser.add_argument("--port", type=int, default=8090)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; any but a loopback address wants --keys")
    parser.add_argument(
        "--store", required=True, help="of the experiments: sqlite:///<absolute path> or dynamodb://<table>?region=<region>"
    )
    parser.add_argument("--bucket", required=True, help="where models lie, and decisions, outcomes and labels go")
    parser.add_argument(
        "--state", required=True, type=Path, help="directory of this gateway's own, on a local disk that survives a restart"
    )
    parser.add_argument("--keys", type=Path, help="file of API keys (python -m include.gateway key NAME --keys FILE)")
    parser.add_argument("--domains", nargs="+", metavar="NAME", help="(default: all)")
    parser.add_argument("--rate", type=float, default=2000.0, help="requests a second of one key (default: 2000)")
    parser.add_argument("--refresh-every", type=float, default=1.0, metavar="SECONDS", help="between looks at the experiments (default: 1)")
    parser.add_argument("--ship-every", type=float, default=10.0, metavar="SECONDS", help="between shipments to S3 (default: 10)")
    parser.add_argument("--store-down-after", type=float, default=5.0, metavar="SECONDS", help="without news of the store (default: 5)")
    parser.add_argument("--challenger-timeout", type=float, default=0.5, metavar="SECONDS", help="then the champion answers (default: 0.5)")
    parser.add_argument("--champion-timeout", type=float, default=5.0, metavar="SECONDS", help="with all attempts (default: 5)")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """Serves until SIGTERM; the exit status."""
    if arguments[:1] == ["key"]:
        return _make_key(arguments[1:])
    options = parse(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("botocore").setLevel(logging.WARNING)
    if options.keys is None and not _loopback(options.host):
        return _refuse(f"--host {options.host} is no loopback address: whoever reaches it could score and command. Give it --keys FILE")
    if options.rate <= 0 or min(options.refresh_every, options.ship_every, options.challenger_timeout, options.champion_timeout) <= 0:
        return _refuse("--rate, --refresh-every, --ship-every and the timeouts want numbers above 0")
    if region := os.environ.get("AWS_REGION"):  # which ECS sets, and boto3 does not look at
        os.environ.setdefault("AWS_DEFAULT_REGION", region)
    if boto3.Session().region_name is None:
        return _refuse("there is no AWS region: set AWS_DEFAULT_REGION")
    try:
        names = tuple(domains.get(name).name for name in options.domains or domains.catalogue().domains)
        store, access = open_store(options.store), Access(options.keys, options.rate)
    except (LookupError, ValueError, KeysError, OSError) as error:
        return _refuse(str(error))
    settings = Options(
        bucket=options.bucket,
        state=options.state.resolve(),
        names=names,
        refresh_every=options.refresh_every,
        ship_every=options.ship_every,
        stale_after=options.store_down_after,
        challenger_seconds=options.challenger_timeout,
        champion_seconds=options.champion_timeout,
        kms_key=os.environ.get("FRAUD_KMS_KEY") or None,
    )
    try:
        with only_gateway(settings.state):
            config = uvicorn.Config(
                application(settings, store, access),
                host=options.host,
                port=options.port,
                loop="uvloop",
                http="httptools",
                ws="none",
                lifespan="on",
                access_log=False,
                log_config=None,
                log_level="warning",
                server_header=False,
                date_header=False,
                timeout_keep_alive=75,
                limit_concurrency=_MOST_CONNECTIONS,
                timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
            )
            server = uvicorn.Server(config)
            server.run()
            return 0 if server.started else 1
    except (StateInUse, ClientError, BotoCoreError) as error:
        return _refuse(str(error))


def _make_key(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m include.gateway key", description="Makes an API key, prints it once, and stores its hash."
    )
    parser.add_argument("name", help="whose it is: commands are recorded under it")
    parser.add_argument("--keys", required=True, type=Path, help="the file that the gateway is given, made where it is absent")
    parser.add_argument("--may", nargs="+", choices=RIGHTS, default=[], help=f"(default: {' '.join(USUAL)}; override chooses the variant)")
    options = parser.parse_args(arguments)
    try:
        print(add_key(options.keys, options.name, tuple(options.may)))
    except (KeysError, OSError) as error:
        return _refuse(str(error))
    return 0


def _refuse(message: str) -> int:
    print(message, file=sys.stderr)
    return 2


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
