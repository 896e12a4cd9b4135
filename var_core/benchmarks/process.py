"""Memory of a process, measured from inside, and measurements that each need a process of their own."""

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

from var_core.errors import VarError

_STATUS = Path("/proc/self/status")


def peak_bytes() -> int:
    """Most memory that this process has had resident so far, in bytes.

    Not ``ru_maxrss`` where it can be helped: on Linux that value outlives ``exec``, so a small process starts with the
    peak of the large one that started it.
    """
    found = _status_bytes("VmHWM:")
    if found is not None:
        return found
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def resident_bytes() -> int:
    """Memory that this process has resident now, in bytes; its peak where the system does not say."""
    found = _status_bytes("VmRSS:")
    return peak_bytes() if found is None else found


def peak_of(process: int) -> int:
    """Most memory that another running process has had resident so far, in bytes; 0 where the system does not say."""
    try:
        return _status_bytes("VmHWM:", Path(f"/proc/{process}/status")) or 0
    except OSError:  # it has ended
        return 0


def _status_bytes(field: str, status: Path = _STATUS) -> int | None:
    if not status.is_file():
        return None
    for line in status.read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    return None


def in_own_process(module: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Run ``python -m module`` with JSON as its argument, and read the JSON that it prints last.

    Raises
    ------
    VarError
        If it fails, with the last line that it said.
    """
    command = [sys.executable, "-m", module, json.dumps(arguments)]
    run = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if run.returncode:
        said = run.stderr.strip().splitlines() or ["killed, most likely for want of memory"]
        raise VarError(f"benchmark {module} {command[-1]} failed ({run.returncode}): {said[-1]}")
    printed: dict[str, Any] = json.loads(run.stdout.strip().splitlines()[-1])
    return printed


def respond(answer: dict[str, Any]) -> None:
    """Print the JSON that :func:`in_own_process` reads."""
    print(json.dumps(answer), flush=True)
