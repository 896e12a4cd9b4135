"""Interleaved, paired timing: every contender once a round, and ratios taken within rounds.

A machine's speed drifts (its clock, its neighbours); two blocks of runs one after the other would take the drift for
a difference. Within a round all contenders meet about the same machine.
"""

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

Contender = Callable[[int], object]
"""Does the work of one round; it is given the number of the round, to choose its input by."""

FEWEST_ROUNDS = 9
"""Fewer rounds do not make a figure that is worth reporting."""


@dataclass(frozen=True)
class Figure:
    """A measured figure over n rounds.

    Attributes
    ----------
    median, minimum, maximum : float
    n : int
        Rounds.
    unit : str
        ``"ratio"``, or what it counts.
    against : str or None
        What a ratio is relative to; None for figures that are not ratios.
    """

    median: float
    minimum: float
    maximum: float
    n: int
    unit: str
    against: str | None

    def record(self) -> dict[str, Any]:
        """The figure as JSON has it."""
        return asdict(self)


def figure(values: Sequence[float], unit: str, against: str | None = None) -> Figure:
    """Summarise the values of all rounds."""
    return Figure(statistics.median(values), min(values), max(values), len(values), unit, against)


class Times:
    """Seconds that each contender took in each round.

    Parameters
    ----------
    seconds : mapping
        Contender -> seconds, one a round.
    """

    def __init__(self, seconds: Mapping[str, Sequence[float]]) -> None:
        self.seconds = seconds

    def ratio(self, of: str, against: str) -> Figure:
        """Time of one contender over that of another, round by round."""
        pairs = zip(self.seconds[of], self.seconds[against], strict=True)
        return figure([mine / theirs for mine, theirs in pairs], "ratio", against)

    def rate(self, of: str, amount: float, unit: str) -> Figure:
        """What a contender gets through in a second, if one run of it deals with `amount`."""
        return figure([amount / seconds for seconds in self.seconds[of]], unit)

    def scaled(self, factors: Mapping[str, float]) -> "Times":
        """Times as if some contenders had done `factors` times the work that they did."""
        return Times({name: [s * factors.get(name, 1.0) for s in each] for name, each in self.seconds.items()})


def time_rounds(
    contenders: Mapping[str, Contender], rounds: int, device: torch.device, warm_up: int = 2, seed: int = 0
) -> Times:
    """Run every contender once a round, in a new random order each round.

    Parameters
    ----------
    contenders : mapping
        Name -> work.
    rounds : int
        Rounds that count.
    device : torch.device
        Where the work runs: on a GPU, its own events are the clock.
    warm_up : int, optional
        Rounds before, which do not count.
    seed : int, optional
        Seed of the orders.
    """
    generator = np.random.default_rng(seed)
    names = list(contenders)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    with _no_garbage_collection():
        for number in range(warm_up + rounds):
            for index in generator.permutation(len(names)):
                name = names[index]
                taken = _seconds(contenders[name], number, device)
                if number >= warm_up:
                    seconds[name].append(taken)
            gc.collect()  # between rounds, where nobody pays for it
    return Times(seconds)


def _seconds(work: Contender, number: int, device: torch.device) -> float:
    if device.type != "cuda":
        start = time.perf_counter()
        work(number)
        return time.perf_counter() - start
    before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)
    before.record()
    work(number)
    after.record()
    torch.cuda.synchronize(device)
    return before.elapsed_time(after) / 1000


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    was = gc.isenabled()
    gc.disable()
    gc.freeze()  # what is there already stays; collecting between rounds then looks at little
    try:
        yield
    finally:
        gc.unfreeze()
        if was:
            gc.enable()
