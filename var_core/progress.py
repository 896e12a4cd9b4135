"""Progress of long work: a bar on a terminal, plain lines with rate and remaining time elsewhere."""

import logging
import sys
import time
from types import TracebackType

from tqdm import tqdm

_SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Count work done and show it.

    Parameters
    ----------
    total : int
        Amount of work, in `unit`.
    unit : str
        What is counted, for example ``"token"``.
    description : str
        What is going on, for example ``"capture demo-moe/python-stdlib heldout 1"``.
    done : int, optional
        Work finished before this process started (a resumed job); it does not count into the rate.
    """

    def __init__(self, total: int, unit: str, description: str, done: int = 0) -> None:
        self.total, self.unit, self.description, self.done = total, unit, description, done
        self._first_done, self._started = done, time.monotonic()
        self._last_line = self._started
        self._logger = logging.getLogger("var_core.progress")
        self._bar = (
            tqdm(total=total, initial=done, unit=unit, desc=description, unit_scale=True, leave=False)
            if sys.stderr.isatty()
            else None
        )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        if kind is None:
            self._log_line()

    def advance(self, amount: int, note: str = "") -> None:
        """Count `amount` more; `note` is shown behind the figures."""
        self.done += amount
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(amount)
        now = time.monotonic()
        if now - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = now
            self._log_line(note)

    def found_done(self, amount: int) -> None:
        """Count `amount` that was done earlier, or by others: not into the rate."""
        self._first_done += amount
        self._show(self.done + amount)

    def set_back(self, done: int) -> None:
        """Go back to an earlier amount: what was done since has to be done again."""
        self._first_done = min(self._first_done, done)
        self._show(done)

    def _show(self, done: int) -> None:
        self.done = done
        if self._bar is not None:
            self._bar.n, self._bar.initial = done, self._first_done
            self._bar.refresh()

    def _log_line(self, note: str = "") -> None:
        seconds = max(time.monotonic() - self._started, 1e-9)
        rate = (self.done - self._first_done) / seconds
        left = max(self.total - self.done, 0)
        share = self.done / self.total if self.total else 1.0
        self._logger.info(
            "%s: %d of %d %ss (%.0f %%), %s %ss/s, %s to go%s",
            self.description, self.done, self.total, self.unit, 100 * share, _rate(rate), self.unit,
            duration(left / rate) if rate > 0 else "0 s" if not left else "unknown time",
            f", {note}" if note else "",
        )  # fmt: skip


def _rate(value: float) -> str:
    """Write a rate with two or more significant digits."""
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def duration(seconds: float) -> str:
    """Write a duration in its two largest units."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
