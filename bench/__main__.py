"""``python -m bench``: every bench, one after the other, each in a process of its own.

Those that measure on published data are left out, with a line that says so, where the data are not there (see FRAUD_REFERENCE_DATA in them).
"""

from __future__ import annotations

import subprocess
import sys

from bench import reference

BENCHES = (
    "dag_parsing",
    "jobs",
    "serving",
    "auto_claims",
    "handbook",
    "card_features",
    "simulation",
    "backfill",
    "estimated_quality",
    "drift_speed",
    "false_alarms",
    "drift_power",
    "gateway",
    "bandit",
    "rollout",
)


def main() -> int:
    """0: all that ran ended well; 1: one failed, or missed a goal that it insists on."""
    payments = reference.payments()
    absent = {"auto_claims": reference.claims() is None, "handbook": payments is None}
    failed = []
    for name in BENCHES:
        if absent.get(name):
            print(f"\n{name}: left out, the published data are not there: python -m bench.{name} --help", flush=True)
            continue
        data = ["--data", str(payments)] if name == "card_features" and payments else []
        if subprocess.run([sys.executable, "-m", f"bench.{name}", *data], check=False).returncode:
            failed.append(name)
    print(f"\nfailed: {', '.join(failed)}" if failed else "\nall of it ran", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
