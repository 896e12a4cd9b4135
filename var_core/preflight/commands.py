"""Running the programs of a site, which may be missing, fail, or not answer."""

import os
import subprocess
from collections.abc import Sequence

from var_core.errors import VarError

_SECONDS = 30.0


def answer(command: Sequence[str]) -> str:
    """Run a program and return what it prints.

    Raises
    ------
    VarError
        If it is not there, fails, or gives no answer in time; the line says which.
    """
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, env=outside_of_jobs())
    except FileNotFoundError:
        raise VarError(f"{command[0]} is not on PATH") from None
    except PermissionError:
        raise VarError(f"{command[0]} cannot be run") from None
    except subprocess.TimeoutExpired:
        raise VarError(f"{command[0]} gave no answer in {_SECONDS:g} s") from None
    if run.returncode:
        raise VarError(f"{command[0]} failed ({last_line(run.stderr) or f'status {run.returncode}'})")
    return run.stdout


def outside_of_jobs() -> dict[str, str]:
    """The environment without what Slurm says to its jobs, so that one asked for inside a job is one of its own."""
    return {name: value for name, value in os.environ.items() if not name.startswith("SLURM_") or name == "SLURM_CONF"}


def last_line(text: str) -> str:
    """Return the last line that is not empty."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")
