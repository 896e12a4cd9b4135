"""The lock of a file on a file system that the jobs share.

It is a file that is made with ``O_EXCL``, which also network file systems let exactly one process do; Optuna's default,
a symbolic link, is not for us: of a file with a relative path it points nowhere, so that a killed holder's lock is
never found to be old, and who waits for it does so for ever.
"""

import contextlib
import logging
import os
import random
import time
import uuid
from pathlib import Path

from optuna.storages.journal import JournalFileOpenLock

_LOGGER = logging.getLogger(__name__)
GRACE_SECONDS = 30
"""A lock that has not changed for so long was its dead holder's; living ones hold it for milliseconds."""

_NONE = (0, 0)


class FileLock(JournalFileOpenLock):
    """Optuna's lock, which takes away nothing but a dead holder's lock and its own.

    Optuna's waiters take away whatever lock is there when they have waited for long enough. Of two, the second would
    take away the first one's new lock, and a holder that was held up, when it is done, that of its successor. Here
    whoever takes a lock away looks at what it has in its hand, and puts back what it was not to take.

    Parameters
    ----------
    path : Path
        The file that is locked; its lock is called ``{name}.lock``.
    grace_seconds : int
        After how long the lock of a killed process is taken over.
    """

    def __init__(self, path: Path, grace_seconds: int) -> None:
        super().__init__(str(path), grace_seconds)
        self._grace = grace_seconds
        self._own: tuple[int, int] | None = None

    def acquire(self) -> bool:
        """Wait for the lock."""
        super().acquire()
        self._own = _NONE
        with contextlib.suppress(FileNotFoundError):
            self._own = _identity(Path(self._lock_file))
        return True

    def release(self) -> None:
        """Give the lock back; or, for who does not hold it, take away that of a dead holder.

        Raises
        ------
        RuntimeError
            If there is a living holder's lock, or none, to take away; :meth:`acquire` then goes on waiting.
        """
        own, self._own = self._own, None
        lock = Path(self._lock_file)
        aside = lock.with_name(f"{lock.name}.{uuid.uuid4()}")
        try:
            if own is None:
                # All that wait have waited for the same time, and are not to come at the same moment.
                time.sleep(random.uniform(0, self._grace / 20))
                self._dead_or_error(lock)
            lock.rename(aside)
            try:
                if own is None:
                    self._dead_or_error(aside)
                elif _identity(aside) != own:
                    raise RuntimeError("another process has taken over")
            except RuntimeError:
                # Nothing is overwritten, should there be a third by now.
                with contextlib.suppress(FileExistsError):
                    os.link(aside, lock)
                raise
            finally:
                aside.unlink()
        except (FileNotFoundError, RuntimeError):
            if own is None:
                raise RuntimeError("another process was quicker") from None
            _LOGGER.warning("%s: was taken over after %d s", lock, self._grace)

    def _dead_or_error(self, lock: Path) -> None:
        if _age(lock) < self._grace / 2:
            raise RuntimeError("a living process holds it")


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_ino, status.st_mtime_ns


def _age(path: Path) -> float:
    """Seconds since a file was made, by the clock of the file system: those of machines need not agree."""
    now = path.with_name(f"{path.name}.now")
    now.touch()
    try:
        return now.stat().st_mtime - path.stat().st_mtime
    finally:
        now.unlink()
