"""Moving experts into fast memory: at once when they are needed, beside the computation when they are predicted.

All transfers share one link, which carries one expert at a time. One that is needed goes before all that are only
predicted, but for those that are to be written to the same place earlier.
"""

import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

import torch

from var_core.errors import VarError
from var_core.systems.offload.residency import Slot
from var_core.systems.offload.slots import Slots
from var_core.systems.offload.store import Store


@dataclass(frozen=True)
class Link:
    """A link that is slower than this machine's memory, to which transfers are held back.

    Attributes
    ----------
    bandwidth : float
        Bytes a second.
    latency : float
        Seconds for each expert.

    Raises
    ------
    VarError
        If bandwidth is not positive, or latency is negative.
    """

    bandwidth: float
    latency: float = 0.0

    def __post_init__(self) -> None:
        if not self.bandwidth > 0:
            raise VarError(f"link_bandwidth: {self.bandwidth} bytes a second; it must be above 0")
        if not self.latency >= 0:
            raise VarError(f"link_latency: {self.latency} seconds; it must not be below 0")

    def seconds(self, size: int) -> float:
        """Time for an expert of that many bytes."""
        return self.latency + size / self.bandwidth


class Transfers(Protocol):
    """Fills slots from a store."""

    def __enter__(self) -> "Transfers":
        """Transfers may begin."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """All that were begun are finished."""

    def prefetch(self, slots: Sequence[Slot]) -> None:
        """Begin to fill slots, in this order, beside what else goes on."""

    def in_flight(self, slot: Slot) -> bool:
        """Whether a slot is still being filled, or waits for it."""

    def wait(self, slot: Slot) -> None:
        """Wait until a slot is filled."""

    def load(self, slots: Sequence[Slot]) -> None:
        """Fill slots now, in this order, and wait until that is done."""


class ThreadTransfers:
    """Transfers by the processor: prefetching by a thread of its own.

    Parameters
    ----------
    store : Store
    slots : Slots
    link : Link or None, optional
        Hold transfers back to a link; None: as fast as this machine is.
    """

    def __init__(self, store: Store, slots: Slots, link: Link | None = None) -> None:
        self._store, self._slots, self._link = store, slots, link
        self._state, self._carrying = threading.Condition(), threading.Lock()
        self._queue: deque[Slot] = deque()
        self._pending: Counter[tuple[int, int]] = Counter()
        self._demanding = self._ending = False
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="prefetch of experts", daemon=True)

    def __enter__(self) -> "ThreadTransfers":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._state:
            self._ending = True
            self._state.notify_all()
        self._thread.join()

    def prefetch(self, slots: Sequence[Slot]) -> None:
        """Begin to fill slots."""
        with self._state:
            self._queue.extend(slots)
            self._pending.update(self._slots.key(slot) for slot in slots)
            self._state.notify_all()

    def in_flight(self, slot: Slot) -> bool:
        """Whether a slot is still being filled, or waits for it."""
        return self._slots.key(slot) in self._pending

    def wait(self, slot: Slot) -> None:
        """Wait until a slot is filled."""
        key = self._slots.key(slot)
        with self._state:
            self._state.wait_for(lambda: key not in self._pending or self._failure is not None)
        if self._failure is not None:
            raise self._failure

    def load(self, slots: Sequence[Slot]) -> None:
        """Fill slots now."""
        for slot in slots:
            self.wait(slot)  # an earlier prefetch into the same place must not come after this
        with self._state:
            self._demanding = True
        try:
            for slot in slots:
                self._carry(slot)
        finally:
            with self._state:
                self._demanding = False
                self._state.notify_all()

    def _work(self) -> None:
        while True:
            with self._state:
                self._state.wait_for(
                    lambda: (self._queue and not self._demanding) or (self._ending and not self._queue)
                )
                if not self._queue:
                    return
                slot = self._queue.popleft()
            try:
                self._carry(slot)
            except BaseException as error:
                with self._state:
                    self._failure = error
                    self._queue.clear()
                    self._state.notify_all()
                return
            with self._state:
                key = self._slots.key(slot)
                self._pending[key] -= 1
                if not self._pending[key]:
                    del self._pending[key]
                    self._state.notify_all()

    def _carry(self, slot: Slot) -> None:
        with self._carrying:
            start = time.perf_counter()
            _copy(self._store, self._slots, slot)
            if self._link is not None:
                end = start + self._link.seconds(self._slots.expert_bytes(slot.layer))
                time.sleep(max(end - time.perf_counter(), 0.0))


class StreamTransfers:
    """Transfers by a GPU's copy engine: from pinned memory, on a stream of their own.

    Whoever needs an expert waits for it on the host, so that what the wait costs can be measured there; the host has
    just waited for the router's decision anyway.

    Parameters
    ----------
    store : Store
        In pinned memory.
    slots : Slots
        On the GPU.
    """

    def __init__(self, store: Store, slots: Slots) -> None:
        self._store, self._slots = store, slots
        self._stream = torch.cuda.Stream(slots.device)
        self._filled: dict[tuple[int, int], torch.cuda.Event] = {}

    def __enter__(self) -> "StreamTransfers":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.synchronize()

    def prefetch(self, slots: Sequence[Slot]) -> None:
        """Begin to fill slots."""
        # Not before all that has been asked of the GPU so far: it may still read what is overwritten here.
        self._stream.wait_stream(torch.cuda.current_stream(self._slots.device))
        with torch.cuda.stream(self._stream):
            for slot in slots:
                _copy(self._store, self._slots, slot)
                event = torch.cuda.Event()
                event.record(self._stream)
                self._filled[self._slots.key(slot)] = event

    def in_flight(self, slot: Slot) -> bool:
        """Whether a slot is still being filled, or waits for it."""
        event = self._filled.get(self._slots.key(slot))
        return event is not None and not event.query()

    def wait(self, slot: Slot) -> None:
        """Wait until a slot is filled."""
        event = self._filled.pop(self._slots.key(slot), None)
        if event is not None:
            event.synchronize()

    def load(self, slots: Sequence[Slot]) -> None:
        """Fill slots now."""
        self.prefetch(slots)
        for slot in slots:
            self.wait(slot)


def _copy(store: Store, slots: Slots, slot: Slot) -> None:
    rows = slots.of(slot.layer)
    for name, part in store.parts(slot.layer, slot.expert).items():
        rows[name][slot.place].copy_(part, non_blocking=True)
    store.copied(slot.layer, slot.expert)
