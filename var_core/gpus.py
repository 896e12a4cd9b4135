"""Handing out the GPUs of one machine: each job takes free ones for itself, and has them until its process ends.

A scheduler of a cluster does this; on one machine nobody does. Snakemake counts ``resources: gpu`` there, so that no
more jobs run than there are GPUs, but tells no job which is its own.
"""

import fcntl
import logging
import os
import random
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from var_core.errors import VarError

_LOGGER = logging.getLogger(__name__)
_BY_SCHEDULERS = ("SLURM_JOB_GPUS", "SLURM_STEP_GPUS")
_POLL_SECONDS = 1.0

_held: list[int] = []
"""Open lock files of this process. The system closes them, and frees the GPUs, when it ends, however it ends."""


def take_gpus(
    number: int, folder: Path | None = None, devices: Sequence[str] | None = None, wait_s: float = 300.0
) -> tuple[str, ...]:
    """Take free GPUs for this process, and let CUDA see no others. To be called before anything asks CUDA for devices.

    Nothing is done if `number` is 0, if this process has taken its GPUs before, or if a scheduler has handed them out:
    Slurm names them, and where no more are visible than are wanted there is nothing to choose.

    Parameters
    ----------
    number : int
        GPUs that the job asked for (its ``resources: gpu``).
    folder : Path, optional
        Where the lock files are; by default a folder of this user on this machine's own disk.
    devices : sequence of str, optional
        What to choose from, as ``CUDA_VISIBLE_DEVICES`` names them; by default those in that variable, or all.
    wait_s : float, optional
        Seconds to wait until enough are free.

    Returns
    -------
    tuple of str
        The GPUs that were taken; none if nothing was done.

    Raises
    ------
    VarError
        If there are fewer GPUs than wanted, or not enough became free in time.
    """
    if number <= 0 or _held or any(os.environ.get(name) for name in _BY_SCHEDULERS):
        return ()
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if devices is None:
        devices = visible_gpus()
        if given is not None and len(devices) == number:
            return ()
    if len(devices) < number:
        raise VarError(
            f"resources: gpu={number}, but {len(devices)} GPUs are visible here "
            f"(CUDA_VISIBLE_DEVICES is {'not set' if given is None else repr(given)}); lower gpu in the profile"
        )
    folder = folder or _own_folder()
    give_up = time.monotonic() + wait_s
    while not (taken := _take(number, folder, devices)):
        if time.monotonic() >= give_up:
            raise VarError(
                f"{folder}: fewer than {number} of the GPUs {', '.join(devices)} became free in {wait_s:g} s; another "
                "workflow of yours uses them: let it finish, or lower gpu under resources in the profile"
            )
        # Not all at the same moment, or two that want several each would give way to each other again and again.
        time.sleep(_POLL_SECONDS * random.uniform(0.5, 1.0))
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(taken)
    _LOGGER.info("using GPU %s of %s", ", ".join(taken), ", ".join(devices))
    return taken


def visible_gpus() -> tuple[str, ...]:
    """Names of the GPUs that this process may use, without asking CUDA, which would not look at its variable again."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return tuple(name for name in map(str.strip, given.split(",")) if name and name != "-1")
    try:
        listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    found = [line for line in listed.stdout.splitlines() if line.startswith("GPU ")] if not listed.returncode else []
    return tuple(map(str, range(len(found))))


def _take(number: int, folder: Path, devices: Sequence[str]) -> tuple[str, ...]:
    """Lock the first `number` free devices; none if there are not as many."""
    taken: dict[str, int] = {}
    for device in devices:
        # Not through an object that Python may close: closing gives the lock away. Programs that this one starts do
        # not inherit it.
        handle = os.open(folder / f"gpu-{device.replace('/', '_')}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            continue
        taken[device] = handle
        if len(taken) == number:
            _held.extend(taken.values())
            return tuple(taken)
    for handle in taken.values():
        os.close(handle)
    return ()


def _own_folder() -> Path:
    """A folder that all jobs of this user on this machine agree on, whatever their environment says."""
    folder = Path(f"/tmp/var-gpus-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise VarError(f"{folder}: belongs to somebody else; remove it, it holds the locks of your jobs on GPUs")
    return folder
