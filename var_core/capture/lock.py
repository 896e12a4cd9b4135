"""One writer a shard: a lock file with owner and heartbeat that also holds on network file systems.

The lock is a chain of numbered files, and whoever made the one with the highest number holds it. A dead owner's lock
is taken over by making the next number, which the file system lets exactly one process do; nothing is ever deleted
that another process may have renewed in the meantime. There is no ``flock``, which network file systems take lightly.
"""

import contextlib
import json
import logging
import os
import random
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

from var_core.errors import VarError
from var_core.files import disk_full_in_one_line

_LOGGER = logging.getLogger(__name__)
_BEATS = 8
LOCKS = "locks"
"""Folder of the locks under a capture's state: it is listed at every look at a lock, and holds those of living jobs
only, while beside it lie the files of all micro-shards."""
"""Heartbeats in the time after which a lock without one is stale: some may be late, or lost on the network."""
_POLL_SECONDS = 1.0


class LostLockError(VarError):
    """Another process has taken the shard over."""


class HeldLockError(VarError):
    """Another process holds the lock, and goes on holding it."""


@dataclass(frozen=True)
class Owner:
    """The process that holds a lock.

    Attributes
    ----------
    token : str
        Tells two locks of one process apart.
    host, pid, job
        For the message; `job` is the scheduler's number, None outside a job.
    place : str
        The boot and the process namespace in which `pid` means something; empty where the system does not say.
    started : str
        When the process started, in ticks since boot: numbers of processes are used again.
    """

    token: str
    host: str
    pid: int
    place: str
    started: str
    job: str | None

    @classmethod
    def this_process(cls) -> "Owner":
        """Describe the process that asks."""
        pid = os.getpid()
        job = os.environ.get("SLURM_JOB_ID")
        return cls(secrets.token_hex(8), socket.gethostname(), pid, _place(), _started(pid), job)

    def is_gone(self) -> bool:
        """Whether this is certain: the process ran on this machine since it was started, and runs no more."""
        return bool(self.place) and self.place == _place() and _started(self.pid) != self.started

    def __str__(self) -> str:
        job = f", job {self.job}" if self.job else ""
        return f"process {self.pid} on {self.host}{job}"


class ShardLock:
    """Context manager that holds a lock while its block runs.

    Parameters
    ----------
    path : Path
        The lock; its files are called ``{name}-{number}``.
    stale_s : float
        Seconds without a heartbeat after which the owner is taken for dead; an owner on this machine whose process
        is gone is known to be dead at once.
    wait_s : float
        Seconds to wait for a living owner.
    look : callable, optional
        Called while waiting; what it raises ends that.

    Raises
    ------
    HeldLockError
        On entering, if another process holds the lock for longer than `wait_s`; the line names it.
    """

    def __init__(self, path: Path, stale_s: float, wait_s: float, look: Callable[[], None] = lambda: None) -> None:
        self._path, self._stale, self._wait, self._look = path, stale_s, wait_s, look
        self._me = Owner.this_process()
        self._file = path
        self._ended = threading.Event()

    def __enter__(self) -> "ShardLock":
        self._path.parent.mkdir(parents=True, exist_ok=True)
        give_up, told = time.monotonic() + self._wait, False
        while not self._try():
            holder = self._holder()
            if time.monotonic() >= give_up:
                raise HeldLockError(
                    f"{self._path}: {holder} captures this shard already; let it finish, or end it and run again "
                    f"(capture.lock_wait_s, now {self._wait:g}, is how long to wait)"
                )
            if not told:
                _LOGGER.info("%s: waiting for %s, which captures this shard", self._path, holder)
                told = True
            self._look()
            # Not all at the same moment, or two that gave way to each other would do so again.
            time.sleep(min(_POLL_SECONDS, self._stale / _BEATS) * random.uniform(0.5, 1.0))
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        with contextlib.suppress(LostLockError):
            self.check()
            for _, earlier in self._chain()[:-1]:
                earlier.unlink(missing_ok=True)
        self._file.unlink(missing_ok=True)

    def check(self) -> None:
        """Make sure that the lock is still held; to be called before anything is written.

        Raises
        ------
        LostLockError
            If another process took it over, as after a long suspension of this one.
        """
        chain = self._chain()
        if not chain or chain[-1][1] != self._file or _token(self._file) != self._me.token:
            raise LostLockError(
                f"{self._path}: {self._holder()} has taken this shard over, because this process gave no sign of life "
                f"for {self._stale:g} s (was it suspended?); this one stops here, the shard goes on there"
            )

    def _try(self) -> bool:
        """Take the lock if nobody living holds it."""
        chain = self._chain()
        if not chain:
            return self._make(1)
        number, file = chain[-1]
        before = _token(file)
        reason = self._death(file)
        if reason is None or not self._make(number + 1):
            return False
        # The owner may have come back to life and released the lock before the next number was there.
        if _token(file) != before:
            self._file.unlink(missing_ok=True)
            return False
        _LOGGER.warning("%s: taking over the lock of %s, %s", self._path, _named(_owner(file)), reason)
        return True

    def _make(self, number: int) -> bool:
        """Make the lock file of a number, with its content, in one step that only one process can take."""
        file = self._path.with_name(f"{self._path.name}-{number}")
        with self._candidate() as candidate:
            try:
                os.link(candidate, file)
            except FileExistsError:
                # A network may lose the answer to a link that was made, and then says so on the second try.
                if _token(file) != self._me.token:
                    return False
            except OSError as error:
                if not _make_without_link(file, candidate.read_bytes(), error):
                    return False
        self._file = file
        chain = self._chain()
        if chain and chain[-1][1] != file:
            file.unlink(missing_ok=True)
            return False
        return True

    def _death(self, file: Path) -> str | None:
        """Why the owner of a lock file is taken for dead; None if it may live."""
        owner = _owner(file)
        if owner is not None and owner.is_gone():
            return "which runs no more"
        # Both times are the file system's: the clocks of two machines need not agree.
        with self._candidate() as candidate, contextlib.suppress(FileNotFoundError):
            silent = candidate.stat().st_mtime - file.stat().st_mtime
            if silent > self._stale:
                return f"without a sign of life for {silent:.0f} s"
        return None

    @contextlib.contextmanager
    def _candidate(self) -> Iterator[Path]:
        """A file with this process's description, for as long as the block runs."""
        candidate = self._path.with_name(f".{self._path.name}.{self._me.token}.tmp")
        try:
            with disk_full_in_one_line(candidate):
                candidate.write_text(json.dumps(asdict(self._me)), encoding="utf-8")
            yield candidate
        finally:
            candidate.unlink(missing_ok=True)

    def _chain(self) -> list[tuple[int, Path]]:
        """The lock files that there are, by number."""
        start = len(self._path.name) + 1
        numbered = [(path.name[start:], path) for path in self._path.parent.glob(f"{self._path.name}-*")]
        return sorted((int(number), path) for number, path in numbered if number.isdecimal())

    def _holder(self) -> str:
        chain = self._chain()
        return _named(_owner(chain[-1][1]) if chain else None)

    def _beat(self) -> None:
        while not self._ended.wait(self._stale / _BEATS):
            # Whether the lock is still held is for check() to say; a network that is slow now may answer next time.
            with contextlib.suppress(OSError):
                os.utime(self._file)


def _make_without_link(file: Path, content: bytes, reason: OSError) -> bool:
    """Make a lock file where the file system knows no hard links; it is empty for a moment, which counts as alive."""
    try:
        with file.open("xb") as stream:
            stream.write(content)
    except FileExistsError:
        return False
    _LOGGER.debug("%s: made without a hard link (%s)", file, reason)
    return True


def _owner(file: Path) -> Owner | None:
    """Who made a lock file; None if it is gone or does not say."""
    try:
        return Owner(**json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _token(file: Path) -> str | None:
    owner = _owner(file)
    return owner.token if owner else None


def _named(owner: Owner | None) -> str:
    return str(owner) if owner else "another process"


def _place() -> str:
    """Boot and process namespace: two containers on one machine count their processes apart."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _started(pid: int) -> str:
    """When a process started, in ticks since boot; empty if there is none of this number."""
    try:
        record = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    # The name may hold blanks and brackets, so count behind its last bracket; the start time is field 22.
    fields = record.rpartition(")")[2].split()
    return "" if fields[0] in "ZX" else fields[19]
