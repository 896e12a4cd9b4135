"""What a job finds where it runs: ``python -m var_core.preflight.node FOLDER SECONDS GPUS``.

It is started by the preflight, on a node or beside it, and prints what it finds as one line of JSON. Whatever fails
there is an answer, and no fault.
"""

import contextlib
import fcntl
import json
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

MARK = "var-preflight:"
HERE, HELD, TAKEN, LINKED, RENAMED, BEAT = "here", "held", "taken", "linked", "renamed", "beat"
"""Files in the folder: one to read, one that is locked, one whose name is taken; and what this process makes."""
_SEEN_SECONDS = 10.0
_BEAT_SECONDS = 0.25


def look(folder: Path, seconds: float, gpus: bool) -> dict[str, Any]:
    """Try what the stages rely on, in a folder that the asking process has prepared."""
    host = os.environ.get("SLURMD_NODENAME") or socket.gethostname()
    found: dict[str, Any] = {"host": host, "python": sys.version.split()[0]}
    found["seen"] = _tried(lambda: _seen(folder / HERE))
    if found["seen"] is True:
        found["lock"] = _tried(lambda: _is_refused(folder / HELD))
        found["link"] = _tried(lambda: _link(folder))
        found["rename"] = _tried(lambda: _rename(folder))
    found["packages"] = _tried(_import_packages)
    if gpus:
        found["visible"] = os.environ.get("CUDA_VISIBLE_DEVICES")
        found["gpus"] = _tried(_gpus)
    if found["seen"] is True:
        found["beat"] = _tried(lambda: _beat(folder / BEAT, seconds))
    return found


def _tried(step: Callable[[], Any]) -> Any:
    """Result of a step, or what the system says against it."""
    try:
        return step()
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def _seen(file: Path) -> bool:
    """Wait for a file to be visible here; network file systems take their time."""
    give_up = time.monotonic() + _SEEN_SECONDS
    while not file.is_file():
        if time.monotonic() >= give_up:
            return False
        time.sleep(0.1)
    return True


def _is_refused(file: Path) -> bool:
    """Whether a lock that the other process holds is refused to this one."""
    with file.open("r+b") as stream:
        try:
            fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except PermissionError:  # the other answer that POSIX allows
            return True
    return False


def _link(folder: Path) -> bool:
    """Whether a hard link can be made, and not over a name that the other process has taken."""
    source = folder / f"{LINKED}-source"
    source.write_text(socket.gethostname(), encoding="utf-8")
    os.link(source, folder / LINKED)
    with contextlib.suppress(FileExistsError):
        os.link(source, folder / TAKEN)
        return False
    return True


def _rename(folder: Path) -> bool:
    """Replace a file that the other process has made."""
    aside = folder / f"{RENAMED}-aside"
    aside.write_text("new", encoding="utf-8")
    aside.replace(folder / RENAMED)
    return True


def _import_packages() -> bool:
    import duckdb
    import torch
    import transformers

    return bool(duckdb and torch and transformers)


def _gpus() -> int:
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _beat(file: Path, seconds: float) -> bool:
    """Make a file and give signs of life in it, as the lock of a shard does."""
    file.touch()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(_BEAT_SECONDS)
        os.utime(file)
    return True


if __name__ == "__main__":
    print(MARK + json.dumps(look(Path(sys.argv[1]), float(sys.argv[2]), bool(int(sys.argv[3])))), flush=True)
