"""What is done when a part of a running model begins and ends: a stopwatch, or ranges for torch's profiler and Nsight.

Times are exclusive: a part's is without that of the parts within it, so that all parts together make the whole.
"""

import itertools
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, record_function

from var_core.systems.names import OTHER

PREFIX = "VAR "
"""What the names of ranges begin with in a trace."""


class Stopwatch:
    """Exclusive seconds of parts, between :meth:`start` and :meth:`stop`.

    On a GPU the clock is its own: an event is recorded in the stream wherever a part begins or ends, so that a time is
    what passes on the device, waiting for the host included.

    Parameters
    ----------
    device : torch.device
        Where the model runs.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._now: Callable[[], Any] = _recorded_event if device.type == "cuda" else time.perf_counter
        self._running: list[str] = []
        self._edges: list[Any] = []
        self._owners: list[str] = []

    def start(self) -> None:
        """Begin; what is no part's own is `other`."""
        self._owners, self._running = [], [OTHER]
        self._edges = [self._now()]

    def enter(self, part: str) -> None:
        """A part begins."""
        self._edge()
        self._running.append(part)

    def leave(self) -> None:
        """The part that began last ends."""
        self._edge()
        self._running.pop()

    def stop(self) -> dict[str, float]:
        """Seconds of each part that was met."""
        self._edge()
        self._running = []
        seconds: dict[str, float] = defaultdict(float)
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        for part, (before, after) in zip(self._owners, itertools.pairwise(self._edges), strict=True):
            # In milliseconds by the events of a GPU.
            seconds[part] += before.elapsed_time(after) / 1e3 if self._device.type == "cuda" else after - before
        return dict(seconds)

    def _edge(self) -> None:
        if self._running:
            self._edges.append(self._now())
            self._owners.append(self._running[-1])


def _recorded_event() -> Any:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


class Annotations:
    """Ranges that torch's profiler records, and on a GPU those that Nsight shows (NVTX).

    Parameters
    ----------
    device : torch.device
        Where the model runs.
    """

    def __init__(self, device: torch.device) -> None:
        self._nvtx = device.type == "cuda"
        self._open: list[record_function] = []

    def enter(self, part: str) -> None:
        """A part begins."""
        if self._nvtx:
            torch.cuda.nvtx.range_push(f"{PREFIX}{part}")
        annotation = record_function(f"{PREFIX}{part}")
        annotation.__enter__()
        self._open.append(annotation)

    def leave(self) -> None:
        """The part that began last ends."""
        self._open.pop().__exit__(None, None, None)
        if self._nvtx:
            torch.cuda.nvtx.range_pop()


class Span(NamedTuple):
    """A range as the profiler recorded it, nanoseconds."""

    name: str
    start: int
    end: int


class Exclusive(NamedTuple):
    """Seconds by outermost range and part: of the host, and what the device computed for it."""

    host: dict[str, dict[str, float]]
    device: dict[str, dict[str, float]]


def recorded_seconds(profiler: torch.profiler.profile) -> Exclusive:
    """Exclusive seconds of the parts that a profiler recorded, by the outermost range that they lie in.

    What an outermost range does not spend in parts is `other`. Kernels of a GPU belong to the part in which the host
    launched them.

    Parameters
    ----------
    profiler : torch.profiler.profile
        One that has ended.
    """
    # The events as the profiler has them: torch's own view of them takes a hundred times as long to make.
    events = profiler.profiler.kineto_results.events()  # type: ignore[union-attr]
    spans = [
        Span(event.name().removeprefix(PREFIX), event.start_ns(), event.start_ns() + event.duration_ns())
        for event in events
        if event.name().startswith(PREFIX) and event.device_type() == DeviceType.CPU
    ]
    launches: dict[int, int] = {}
    kernels: list[tuple[int, int]] = []
    if ProfilerActivity.CUDA in profiler.activities:
        for event in events:
            if event.device_type() == DeviceType.CPU:
                launches[event.correlation_id()] = event.start_ns()
            elif not event.is_user_annotation():
                kernels.append((event.linked_correlation_id(), event.duration_ns()))
    return exclusive_seconds(spans, [(launches[launch], length) for launch, length in kernels if launch in launches])


def exclusive_seconds(spans: Iterable[Span], kernels: Sequence[tuple[int, int]] = ()) -> Exclusive:
    """Exclusive seconds of spans that lie within each other.

    Parameters
    ----------
    spans : iterable of Span
        Of one thread.
    kernels : sequence of tuple of int, optional
        When each was launched, and how long it ran.
    """
    host: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    device: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    edges, owners = [], []
    running: list[Span] = []

    def owner() -> tuple[str, str] | None:
        return (running[0].name, running[-1].name if len(running) > 1 else OTHER) if running else None

    # At one moment what ends comes before what begins, and of what begins together the longer one is around the other.
    for span in [*sorted(spans, key=lambda span: (span.start, -span.end)), None]:
        while running and (span is None or running[-1].end <= span.start):
            edges.append(running.pop().end)
            owners.append(owner())
        if span is not None:
            running.append(span)
            edges.append(span.start)
            owners.append(owner())
    for at, (before, after) in zip(owners, itertools.pairwise(edges), strict=False):
        if at is not None:
            host[at[0]][at[1]] += (after - before) / 1e9
    for launched, length in kernels:
        place = int(np.searchsorted(edges, launched, side="right")) - 1
        at = owners[place] if place >= 0 else None
        if at is not None:
            device[at[0]][at[1]] += length / 1e9
    return Exclusive({name: dict(parts) for name, parts in host.items()}, {n: dict(p) for n, p in device.items()})
