"""When a capture job has to end before it is done: its deadline, and the signals that schedulers send ahead."""

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

from var_core.errors import VarError

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
"""What schedulers send before they kill: SLURM both, as asked for by its ``--signal``."""


class StoppedError(VarError):
    """The job ended early on purpose, with all that it has done in a checkpoint."""


class StopRequest:
    """Context manager that notes the wish to end, so that the job ends between two batches.

    A signal only sets a flag: whatever is being written is written to its end.

    Parameters
    ----------
    seconds : float or None
        Time that the job has, from now; None if nobody limits it.
    margin_s : float
        How long before that to stop, for the batch at hand and the checkpoint.

    Raises
    ------
    VarError
        If the margin leaves no time at all.
    """

    def __init__(self, seconds: float | None, margin_s: float) -> None:
        if seconds is not None and seconds <= margin_s:
            raise VarError(
                f"capture.deadline_margin_s: {margin_s:g} s leave nothing of the job's {seconds:g} s; "
                "lower it, or give the job more time (resources: runtime, in minutes)"
            )
        self._deadline = None if seconds is None else time.monotonic() + seconds - margin_s
        self._received: signal.Signals | None = None
        self._handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopRequest":
        # Python lets only the main thread say what a signal does; who calls from another one keeps their own way.
        if threading.current_thread() is threading.main_thread():
            self._handlers = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def reason(self) -> str | None:
        """Why the job is to end now, or None."""
        if self._received is not None:
            return f"signal {self._received.name}"
        if self._deadline is not None and time.monotonic() >= self._deadline:
            return "the job's time is nearly up"
        return None

    def check(self, done: int, total: int, what: str) -> None:
        """End the job if that is wanted.

        Raises
        ------
        StoppedError
            Saying how far `what` is.
        """
        if reason := self.reason():
            raise StoppedError(f"stopped at {done} of {total} tokens: {reason}; run again to continue ({what})")

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._received = signal.Signals(number)
