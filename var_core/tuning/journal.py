"""Where studies are kept: a journal on a file system that the jobs share.

A journal is a file that records are appended to, a line each, by one process at a time.
"""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from var_core.errors import VarError
from var_core.files import disk_full_in_one_line
from var_core.tuning.lock import GRACE_SECONDS, FileLock

_LOGGER = logging.getLogger(__name__)
_CLAIMS = ".claims"
_BLOCK = 1 << 12


class JournalLock(FileLock):
    """The lock of a journal; whoever takes it finds the journal ending with a whole line.

    A process that is killed while it writes leaves a part of a line, to which Optuna would append, and then nobody
    could read the journal. What is cut off was never read by anybody: readers stop at a line without an end.
    """

    def __init__(self, journal: Path, grace_seconds: int) -> None:
        super().__init__(journal, grace_seconds)
        self._journal = journal

    def acquire(self) -> bool:
        """Wait for the lock, then mend the journal."""
        super().acquire()
        try:
            mend(self._journal)
        except BaseException:
            self.release()
            raise
        return True


def mend(journal: Path) -> None:
    """Cut off what follows the last whole line; only for who holds the lock."""
    with journal.open("r+b") as stream:
        size = end = stream.seek(0, os.SEEK_END)
        while end:
            start = max(end - _BLOCK, 0)
            stream.seek(start)
            newline = stream.read(end - start).rfind(b"\n")
            if newline >= 0:
                end = start + newline + 1
                break
            end = start
        if end < size:
            _LOGGER.warning("%s: a process was killed while it wrote; cutting off %d bytes", journal, size - end)
            stream.truncate(end)


class Journal(JournalStorage):
    """A journal that studies are kept in.

    Parameters
    ----------
    path : Path
        The journal; it is begun if there is none.
    grace_seconds : int
        After how long the lock of a killed process is taken over.

    Raises
    ------
    VarError
        If the file is not a journal.
    """

    def __init__(self, path: Path, grace_seconds: int = GRACE_SECONDS) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with disk_full_in_one_line(path):
            self._file = _File(path, grace_seconds)
            try:
                super().__init__(self._file)
            except (ValueError, KeyError, TypeError, AssertionError) as error:
                raise VarError(
                    f"{path}: not readable as a journal of trials ({type(error).__name__}: {error}); move it away to "
                    "begin the study anew"
                ) from None

    def together(self) -> AbstractContextManager[None]:
        """Append what is written in the block at its end, in one go; nothing of it is read back before."""
        return self._file.together()


class _File(JournalFileBackend):
    """The file of a journal: every record on its own costs several round trips to a server, and a flush of its disk."""

    def __init__(self, path: Path, grace_seconds: int) -> None:
        super().__init__(str(path), JournalLock(path, grace_seconds))
        self._held: list[dict[str, Any]] | None = None

    @contextmanager
    def together(self) -> Iterator[None]:
        self._held = []
        try:
            yield
            held, self._held = self._held, None
            if held:
                self.append_logs(held)
        finally:
            self._held = None

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        if self._held is None:
            super().append_logs(logs)
        else:
            self._held += logs


@contextmanager
def claiming(journal: Path, grace_seconds: int = GRACE_SECONDS) -> Iterator[None]:
    """Make who is in this block the only one to begin, give up and queue trials of a journal's studies."""
    lock = FileLock(journal.with_name(journal.name + _CLAIMS), grace_seconds)
    lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Optuna from telling of every trial, and of what it calls experimental, while the block runs."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(level)
