"""Where the sandbox has to work, found out without the project's own code: there, a broken sandbox is a failed test."""

import shutil
import subprocess

import pytest


def _permitted() -> bool:
    tool = shutil.which("unshare")
    if tool is None:
        return False
    words = [
        "--user",
        "--map-root-user",
        "--mount",
        "--pid",
        "--net",
        "--ipc",
        "--uts",
        "--cgroup",
        "--fork",
        "--mount-proc",
        "true",
    ]
    return subprocess.run([tool, *words], capture_output=True, timeout=20).returncode == 0


needs_sandbox = pytest.mark.skipif(
    not _permitted(), reason="this system forbids user namespaces (or has no unshare command to find out)"
)
