"""Where the sandbox has to work, found out without the project's own code: there, a broken sandbox is a failed test."""

import shutil
import subprocess
from pathlib import Path

import pytest

from var_core.evaluation.sandbox.program import Limits
from var_core.evaluation.sandbox.run import run_program

QUICK = Limits(wall_seconds=4.0, cpu_seconds=4, memory_bytes=256 << 20)


def _permitted() -> bool:
    tool = shutil.which("unshare")
    if tool is None:
        return False
    words = [
        "--user", "--map-root-user", "--mount", "--pid", "--net", "--ipc", "--uts", "--cgroup",
        "--fork", "--mount-proc", "true",
    ]  # fmt: skip
    return subprocess.run([tool, *words], capture_output=True, timeout=20).returncode == 0


needs_sandbox = pytest.mark.skipif(
    not _permitted(), reason="this system forbids user namespaces (or has no unshare command to find out)"
)


def run(program, limits=QUICK):
    return run_program(program, limits)


def host_processes(mark):
    """Ids of the machine's processes that have a word in their command line."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return found
