"""The table of a profile: how is profiled, what was measured round by round, and medians with intervals of it."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy import stats

from var_core.errors import VarError
from var_core.systems.names import PARTS, POLICY_PARTS

PLAIN, POLICY, AUDITED = "plain", "policy", "policy_audited"
BARE, STOPWATCH, PROFILER = "none", "stopwatch", "profiler"
WHOLE = "whole"
"""Stands in the place of a part for the pass as a whole, by the wall clock."""

PROFILES = pa.schema(
    [
        pa.field("arm", pa.string(), nullable=False),
        pa.field("phase", pa.string(), nullable=False),
        pa.field("batch", pa.int32(), nullable=False),
        pa.field("context", pa.int32(), nullable=False),
        pa.field("instrument", pa.string(), nullable=False),
        pa.field("part", pa.string(), nullable=False),
        pa.field("seconds", pa.float64(), nullable=False),
        pa.field("low", pa.float64()),
        pa.field("high", pa.float64()),
        pa.field("share", pa.float64(), nullable=False),
        pa.field("device_seconds", pa.float64()),
        pa.field("rounds", pa.int32(), nullable=False),
    ]
)
"""A row an (arm, phase, batch, context, instrument, part): seconds of one forward pass, the median over rounds with an
interval (null where there are too few rounds), and the mean share of what all parts make. Decoding: a pass is one token
of each sequence, behind `context` of them at the first. `device_seconds`, on a GPU by the profiler only: what its
kernels ran.
Instrument `none` has the whole only: the pass as nobody watches it."""


@dataclass(frozen=True)
class Plan:
    """How is profiled.

    Attributes
    ----------
    batches : tuple of int
        Sequences of a batch.
    context : int
        Tokens of prefill.
    steps : int
        Tokens that are decoded behind it.
    rounds : int
        Rounds that count, with the stopwatch and without.
    profiler_rounds : int
        Rounds of these in which torch's profiler watches the smallest and the largest batch, too; it takes long.
    warmup : int
        Rounds before, which do not count.
    confidence : float
        Of the intervals.
    seed : int
    """

    batches: tuple[int, ...] = (1, 2, 4, 8)
    context: int = 64
    steps: int = 4
    rounds: int = 9
    profiler_rounds: int = 6
    warmup: int = 1
    confidence: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        smallest = {"batches": min(self.batches, default=0), "profiler_rounds": self.profiler_rounds}
        smallest |= {"context": self.context, "steps": self.steps, "rounds": self.rounds, "warmup": self.warmup}
        for name, value in smallest.items():
            least = 0 if name in ("profiler_rounds", "warmup") else 1
            if value < least:
                raise VarError(f"profile.{name}: {value} is too small; give at least {least}")
        if not 0 < self.confidence < 1:
            raise VarError(f"profile.confidence: {self.confidence:g} is no probability; give one between 0 and 1")

    def instruments(self, number: int, batch: int) -> tuple[str, ...]:
        """What watches a batch in a round; rounds of warmth have negative numbers."""
        profiled = number < self.profiler_rounds and batch in (min(self.batches), max(self.batches))
        return (BARE, STOPWATCH, PROFILER) if profiled else (BARE, STOPWATCH)

    def runs(self, arms: int) -> int:
        """How many runs a profile of so many arms takes, that for the trace left out."""
        rounds = range(-self.warmup, self.rounds)
        return arms * sum(len(self.instruments(number, batch)) for number in rounds for batch in self.batches)


@dataclass
class Passes:
    """Seconds of one forward pass of a phase."""

    whole: float
    parts: dict[str, float]
    device: dict[str, float]


@dataclass(frozen=True)
class Key:
    """What was run, and what it was watched by."""

    arm: str
    batch: int
    instrument: str


class Measured:
    """Seconds of one forward pass, round by round."""

    def __init__(self) -> None:
        self.seconds: dict[tuple[Key, str], list[dict[str, float]]] = defaultdict(list)
        self.device_seconds: dict[tuple[Key, str], list[dict[str, float]]] = defaultdict(list)

    def add(self, key: Key, passes: Mapping[str, Passes]) -> None:
        """Take in a round."""
        for phase, own in passes.items():
            self.seconds[key, phase].append({WHOLE: own.whole, **own.parts} if own.parts else {WHOLE: own.whole})
            self.device_seconds[key, phase].append(own.device)

    def table(self, plan: Plan) -> pa.Table:
        """Rows of :data:`PROFILES`."""
        rows = []
        for (key, phase), rounds in self.seconds.items():
            device = self.device_seconds[key, phase]
            for part in (WHOLE, *PARTS, *POLICY_PARTS):
                if not any(part in each for each in rounds):
                    continue
                values = np.array([each.get(part, 0.0) for each in rounds])
                share = 1.0 if part == WHOLE else float(np.mean(values / [_sum(each) for each in rounds]))
                low, high = median_interval(values, plan.confidence) or (None, None)
                on_device = float(np.median([each.get(part, 0.0) for each in device])) if any(device) else None
                rows.append({
                    "arm": key.arm, "phase": phase, "batch": key.batch, "context": plan.context,
                    "instrument": key.instrument, "part": part, "seconds": float(np.median(values)), "low": low,
                    "high": high, "share": share, "device_seconds": on_device,
                    "rounds": len(rounds),
                })  # fmt: skip
        return pa.Table.from_pylist(rows, schema=PROFILES)


def _sum(seconds: Mapping[str, float]) -> float:
    """What the parts of a round make together, so that shares make 1."""
    return sum(each for part, each in seconds.items() if part != WHOLE)


def median_interval(values: NDArray[np.float64], confidence: float) -> tuple[float, float] | None:
    """Interval of the median by order statistics; None if there are too few values for the confidence.

    The j-th smallest and j-th largest of n values have the median between them with probability 1 - 2 P(B < j), B
    binomial with n and 1/2, whatever the values' distribution; the largest j that keeps the confidence is taken.
    """
    n = len(values)
    most = int(stats.binom.ppf((1 - confidence) / 2, n, 0.5))
    while most > 0 and 2 * stats.binom.cdf(most - 1, n, 0.5) > 1 - confidence:
        most -= 1
    if most < 1:
        return None
    ordered = np.sort(values)
    return float(ordered[most - 1]), float(ordered[n - most])


def overheads(profiles: pa.Table) -> dict[str, NDArray[np.float64]]:
    """What each instrument adds to the passes that it watches, as shares of those that nobody watches.

    Parameters
    ----------
    profiles : pyarrow.Table
        Rows of :data:`PROFILES`.

    Returns
    -------
    dict of str to numpy.ndarray
        Instrument -> a number for each (arm, phase, batch, context).
    """
    wholes: dict[str, dict[tuple[Any, ...], float]] = defaultdict(dict)
    for row in profiles.to_pylist():
        if row["part"] == WHOLE:
            place = tuple(row[name] for name in ("arm", "phase", "batch", "context"))
            wholes[row["instrument"]][place] = row["seconds"]
    bare = wholes.pop(BARE)
    return {
        instrument: np.array([seconds / bare[place] - 1 for place, seconds in own.items()])
        for instrument, own in wholes.items()
    }
