"""A tiny job where capture jobs run, and what it finds there: Python, shared files, locks, clocks, GPUs."""

import fcntl
import json
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from var_core.errors import VarError
from var_core.preflight import node
from var_core.preflight.commands import answer, last_line, outside_of_jobs
from var_core.preflight.profile import Profile

_POLL_SECONDS = 0.1
_LATE_SECONDS = 10.0
_SLURM_OPTIONS = ["--ntasks=1", "--mem=2000", "--time=5", "--quiet"]
_WILL_PASS = ("None", "Resources", "Priority", "Cleaning", "BeginTime", "Dependency")
"""Why a job may be pending that will start some time."""


@dataclass
class Found:
    """What the job found, and what was seen of it from here.

    Attributes
    ----------
    told : dict
        What it printed; empty if it never ran.
    fault : str or None
        Why it did not run to its end.
    pending : str or None
        Why it did not start in the time that it had, if time may help.
    silences : list of float
        How old its signs of life looked from here, in seconds by the file system's clock.
    seen : dict
        File that it made -> whether it was seen here.
    """

    told: dict[str, Any] = field(default_factory=dict)
    fault: str | None = None
    pending: str | None = None
    silences: list[float] = field(default_factory=list)
    seen: dict[str, bool] = field(default_factory=dict)


def run_job(profile: Profile, results: Path, wait_s: float, gpus: bool) -> Found:
    """Run the job, on a node where the profile uses Slurm, else beside this process.

    Parameters
    ----------
    profile : Profile
        Says what a capture job asks for.
    results : Path
        Folder of the results; what is tried is tried in a folder inside it, which is removed.
    wait_s : float
        Seconds that the job may take, the wait in the queue included.
    gpus : bool
        Whether it looks for GPUs.

    Raises
    ------
    VarError
        If the folder cannot be written.
    """
    name = f"var-preflight-{secrets.token_hex(4)}"
    with _prepared(results) as folder:
        seconds = 5 if profile.uses_slurm else 1
        command = [sys.executable, "-m", "var_core.preflight.node", str(folder), str(seconds), str(int(gpus))]
        if profile.site is not None:
            command = ["sh", "-c", '. "$0"; exec "$@"', str(profile.site.resolve()), *command]
        if profile.uses_slurm:
            command = ["srun", f"--job-name={name}", *_SLURM_OPTIONS, *profile.slurm_request(), *command]
        with (folder / "stdout").open("w+") as out, (folder / "stderr").open("w+") as errors:
            try:
                process = subprocess.Popen(command, stdout=out, stderr=errors, env=outside_of_jobs())
            except OSError as error:
                return Found(fault=f"{command[0]} cannot be run ({error.strerror})")
            found = Found(silences=_silences(folder, process, time.monotonic() + wait_s))
            if process.poll() is None:
                reason = _reason(name) if profile.uses_slurm else "it still ran"
                _end(process, name if profile.uses_slurm else None)
                return _late(reason, wait_s)
            for stream in (out, errors):
                stream.seek(0)
            _read(found, out.read(), errors.read(), process.returncode)
        for made in (node.LINKED, node.RENAMED) if found.told else ():
            found.seen[made] = _seen(folder / made, lambda text: text not in ("", "old"))
        return found


@contextmanager
def _prepared(results: Path) -> Iterator[Path]:
    """A folder with a file to see, one that is locked, one whose name is taken, and one to replace."""
    made = not results.exists()
    try:
        results.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".preflight-", dir=results.resolve()))
    except OSError as error:
        raise VarError(f"{results}: cannot be written ({error.strerror}); make it writable, or free space") from None
    try:
        with (folder / node.HELD).open("w+b") as held:
            with suppress(OSError):  # then the job is not refused it, which says so
                fcntl.lockf(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            (folder / node.TAKEN).touch()
            (folder / node.RENAMED).write_text("old", encoding="utf-8")
            (folder / node.HERE).touch()
            yield folder
    except OSError as error:
        raise VarError(f"{folder}: cannot be written ({error.strerror}); free space, or raise the quota") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if made:
            with suppress(OSError):
                results.rmdir()


def _silences(folder: Path, process: subprocess.Popen[bytes], give_up: float) -> list[float]:
    """Wait for the job's end; meanwhile look how old its signs of life are, as one does who waits for its lock."""
    silences = []
    while process.poll() is None and time.monotonic() < give_up:
        time.sleep(_POLL_SECONDS)
        with suppress(FileNotFoundError):
            beat = (folder / node.BEAT).stat().st_mtime
            candidate = folder / "candidate"
            candidate.touch()
            silences.append(candidate.stat().st_mtime - beat)
            candidate.unlink()
    return silences


def _read(found: Found, out: str, errors: str, status: int) -> None:
    line = next((line for line in out.splitlines() if line.startswith(node.MARK)), None)
    if line is None:
        found.fault = last_line(errors) or f"it ended with status {status} and said nothing"
    else:
        found.told = json.loads(line.removeprefix(node.MARK))


def _reason(name: str) -> str:
    """Why Slurm has not started the job; what squeue says, as ``state reason``."""
    try:
        return last_line(answer(["squeue", "--noheader", f"--name={name}", "--format=%T %r"])) or "squeue lists it not"
    except VarError as error:
        return str(error)


def _late(reason: str, wait_s: float) -> Found:
    said = f"not done in {wait_s:g} s ({reason})"
    if reason.startswith("PENDING") and reason.split()[-1] in _WILL_PASS:
        return Found(pending=said)
    return Found(fault=said)


def _end(process: subprocess.Popen[bytes], job: str | None) -> None:
    """End the job: srun withdraws what it asked for when it is told to end."""
    process.send_signal(signal.SIGTERM)
    if job is not None:
        with suppress(VarError):
            answer(["scancel", f"--name={job}"])
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _seen(file: Path, is_new: Callable[[str], bool]) -> bool:
    """Wait for a file of the job, with its content, to be visible here."""
    give_up = time.monotonic() + _LATE_SECONDS
    while time.monotonic() < give_up:
        with suppress(OSError):
            if is_new(file.read_text(encoding="utf-8")):
                return True
        time.sleep(_POLL_SECONDS)
    return False
