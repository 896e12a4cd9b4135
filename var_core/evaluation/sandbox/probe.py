"""Whether this machine lets an ordinary process build the sandbox."""

import functools
import os
import platform
import re
import sys
from pathlib import Path

from var_core.evaluation.sandbox import system
from var_core.evaluation.sandbox.process import SandboxFaultError, execute
from var_core.evaluation.sandbox.program import Limits

_OLDEST_KERNEL = (5, 14)
"""The first Linux that counts processes for each user namespace."""

_TRIAL = "import os, socket\nassert os.listdir('/scratch') == ['program.py']\n"


@functools.cache
def why_not() -> str | None:
    """Say in one line why programs cannot be run in a sandbox here; None if they can.

    The last word has a trial: a sandbox is really built and a program run in it.
    """
    if sys.platform != "linux":
        return f"the sandbox is made of parts of Linux, and this is {platform.system()}"
    found = tuple(map(int, re.findall(r"\d+", platform.release())[:2]))
    if found < _OLDEST_KERNEL:
        return f"the kernel is {platform.release()}, and {'.'.join(map(str, _OLDEST_KERNEL))} or newer is needed"
    if platform.machine() not in system.MACHINES:
        return f"the numbers of system calls are known for {' and '.join(system.MACHINES)}, not {platform.machine()}"
    try:
        result = execute(_TRIAL, Limits(), strict=True)
    except SandboxFaultError as fault:
        return f"building a trial sandbox failed: {fault}{_hint()}"
    if not result.passed:
        last = (result.output.strip().splitlines() or ["it printed nothing"])[-1]
        return f"a trial program {result.outcome} in the sandbox: {last}"
    return None


def _hint() -> str:
    """Name the setting of the machine that most often stands in the way."""
    if _setting("user/max_user_namespaces") == "0" or _setting("kernel/unprivileged_userns_clone") == "0":
        return " (user namespaces are switched off on this machine)"
    if _setting("kernel/apparmor_restrict_unprivileged_userns") == "1" and os.geteuid() != 0:
        return " (AppArmor keeps user namespaces from ordinary users on this machine)"
    if Path("/.dockerenv").exists() or Path("/run/.containerenv").exists():
        return " (this is a container, which may forbid namespaces of its own)"
    return ""


def _setting(name: str) -> str | None:
    try:
        return Path("/proc/sys", name).read_text(encoding="ascii").strip()
    except OSError:
        return None
