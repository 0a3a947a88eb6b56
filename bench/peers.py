"""The tools that monitoring is measured against, each in a virtual environment of its own under ``.local/venvs``, made where it is absent.

They want other versions of pandas than this project, and send usage statistics unless told not to: ``environment`` tells them.
"""

from __future__ import annotations

import inspect
import json
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PEERS = {
    "evidently": ("evidently==0.7.23", "pandas<3"),  # it fails to import with pandas 3
    "nannyml": ("nannyml==0.13.1", "statsmodels>=0.14"),  # which it imports and does not ask for
}
SILENCE = {"DO_NOT_TRACK": "1", "NML_DISABLE_USAGE_LOGGING": "1"}


def python(peer: str) -> Path:
    """The interpreter of a peer's environment. It is made under another name and then renamed, so that one which is there is complete."""
    home = ROOT / ".local" / "venvs" / peer
    if not (home / "bin" / "python").exists():
        print(f"installing {PEERS[peer][0]} into {home}: a minute or two, once", file=sys.stderr, flush=True)
        unfinished = home.with_name(f"{peer}-{uuid.uuid4().hex[:8]}")
        try:
            subprocess.run([sys.executable, "-m", "venv", str(unfinished)], check=True)
            pip = [str(unfinished / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            subprocess.run([*pip, *PEERS[peer]], check=True)
            unfinished.rename(home)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return home / "bin" / "python"


def environment() -> dict[str, str]:
    """This process's environment for a peer: silent, and without this project on its path."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | SILENCE


def peak_bytes() -> int:
    """The largest resident set of this process so far (Linux). ``resource.getrusage`` would not do: a child's begins at its parent's."""
    with open("/proc/self/status") as status:
        return 1024 * next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))


def ask(peer: str, program: str, arguments: Sequence[str] = ()) -> Any:
    """Runs ``program`` (Python source that prints JSON as its last line, and may call ``peak_bytes``) in the peer's environment. RuntimeError with
    the end of what it said where it fails."""
    command = [str(python(peer)), "-c", f"{inspect.getsource(peak_bytes)}\n{program}", *arguments]
    ended = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    if ended.returncode:
        raise RuntimeError(f"{peer} failed (status {ended.returncode}):\n{ended.stderr[-2000:]}")
    return json.loads(ended.stdout.strip().splitlines()[-1])
