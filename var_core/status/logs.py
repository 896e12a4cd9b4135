"""What the end of a stage's log says: how far it came, and whether it failed."""

import re
from dataclasses import dataclass
from pathlib import Path

_TAIL_BYTES = 1 << 15
_SHOWN_LINES = 4
_RECORD = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (?P<level>[A-Z]+) (?P<logger>\S+): (?P<message>.*)$", re.M)
_PROGRESS = re.compile(r": (?P<done>\d+) of (?P<total>\d+) (?P<unit>\S+?)s \(\d+ %\), (?P<rate>\S+) \S+s/s, .+ to go")
_STOPPED = re.compile(r"error: stopped at (?P<done>\d+) of (?P<total>\d+) (?P<unit>\S+?)s: (?P<reason>.+?); run again")


@dataclass(frozen=True)
class Work:
    """How much of its work a job has done.

    Attributes
    ----------
    done, total : int
        In `unit`.
    unit : str
        What is counted, for example ``"token"``.
    rate : float or None
        Units a second; None where the job works no more.
    """

    done: int
    total: int
    unit: str
    rate: float | None = None

    @property
    def share(self) -> float:
        """Part of the work that is done, from 0 to 1."""
        return self.done / self.total if self.total else 1.0


@dataclass(frozen=True)
class LogEnd:
    """The end of a log.

    Attributes
    ----------
    work : Work or None
        What it last said of the progress.
    stopped : str or None
        Why the job ended itself early, to be continued: its time was up, or a signal came.
    error : tuple of str
        Last lines of a log that ends in an error; empty if it does not.
    """

    work: Work | None = None
    stopped: str | None = None
    error: tuple[str, ...] = ()


def read_end(log: Path) -> LogEnd:
    """Read the last 32 KB of a log; a log that is not there says nothing."""
    try:
        with log.open("rb") as stream:
            size = stream.seek(0, 2)
            stream.seek(max(0, size - _TAIL_BYTES))
            text = stream.read().decode("utf-8", errors="replace")
    except OSError:
        return LogEnd()
    records = list(_RECORD.finditer(text))
    if not records:
        return LogEnd()
    last, end = records[-1], text[records[-1].start("message") :]
    progress = [found for record in records if (found := _PROGRESS.search(record["message"]))]
    work = _work(progress[-1], float(progress[-1]["rate"])) if progress else None
    if stopped := _STOPPED.match(last["message"]):
        return LogEnd(_work(stopped), stopped["reason"])
    # Libraries may log errors and go on; these two are how a stage ends.
    if last["level"] == "ERROR" and (last["logger"] == "job" or last["message"].startswith("error: ")):
        return LogEnd(work, error=tuple(end.strip().splitlines()[-_SHOWN_LINES:]))
    return LogEnd(work)


def _work(found: re.Match[str], rate: float | None = None) -> Work:
    return Work(int(found["done"]), int(found["total"]), found["unit"], rate)
