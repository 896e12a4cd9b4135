"""Fitting a roofline to measured times, and how wrong it is on batch sizes that it was not fitted to.

The roofline says that a part takes ``launches x launch + max(operations / flops, bytes / bandwidth)`` seconds. For a
given balance r = flops / bandwidth that is linear in 1 / flops and in what a launch of each part takes, so that a
search over r alone, with a bounded linear problem for each, finds the best of all.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import lsq_linear, minimize_scalar

from var_core.errors import VarError

Floats = NDArray[np.float64]
_BALANCES = 60
"""Balances that are tried before the best is refined."""
_LEAST = 3
"""Fewer measured times than this fit anything."""


@dataclass(frozen=True)
class Work:
    """What parts of forward passes do, N of them.

    Attributes
    ----------
    part : sequence of str
    batch : numpy.ndarray
        int [N].
    flops, bytes : numpy.ndarray
        float64 [N]: operations, and bytes that are read and written.
    launches : numpy.ndarray
        float64 [N]: how often the part begins, for example layers, or layers times experts that are met.
    forward : numpy.ndarray
        int [N]: number of the forward pass that each is of.
    """

    part: Sequence[str]
    batch: NDArray[np.integer]
    flops: Floats
    bytes: Floats
    launches: Floats
    forward: NDArray[np.integer]

    def __len__(self) -> int:
        return len(self.part)


@dataclass(frozen=True)
class Error:
    """Relative errors of predicted times: ``|predicted / measured - 1|``.

    Attributes
    ----------
    median, worst : float
    n : int
        Times.
    """

    median: float
    worst: float
    n: int

    @classmethod
    def of(cls, predicted: Floats, measured: Floats) -> "Error":
        """Errors of some times; NaN where there are none."""
        errors = np.abs(predicted / measured - 1)
        if not len(errors):
            return cls(float("nan"), float("nan"), 0)
        return cls(float(np.median(errors)), float(errors.max()), len(errors))


@dataclass(frozen=True)
class Calibration:
    """A roofline that fits measured times.

    Attributes
    ----------
    flops, memory_bandwidth : float
        What is reached, operations and bytes a second; infinite where the times show no such limit, and none was given.
    launch : mapping of str to float
        Seconds of a launch of each part.
    fitted : Error
        Of the parts that it was fitted to.
    heldout : Error
        Of the parts of batch sizes that were held out.
    heldout_passes : Error
        Of whole passes of these: the sums of their parts.
    """

    flops: float
    memory_bandwidth: float
    launch: Mapping[str, float]
    fitted: Error
    heldout: Error
    heldout_passes: Error

    def seconds(self, work: Work) -> Floats:
        """Predicted seconds of parts, float64 [N].

        Raises
        ------
        VarError
            If there is a part that it was not fitted to.
        """
        unknown = sorted(set(work.part) - set(self.launch))
        if unknown:
            raise VarError(f"calibration: nothing was measured of part {unknown[0]}; profile it, or leave it out")
        launch = np.array([self.launch[part] for part in work.part])
        return launch * work.launches + np.maximum(work.flops / self.flops, work.bytes / self.memory_bandwidth)


def calibrate(
    work: Work,
    seconds: ArrayLike,
    held_out: Sequence[int],
    most_flops: float = np.inf,
    most_bandwidth: float = np.inf,
    one_launch: bool = False,
) -> Calibration:
    """Fit a roofline to measured times by least squares of relative errors.

    Parameters
    ----------
    work : Work
        What was measured.
    seconds : float array, shape (N,)
        Measured times of these parts.
    held_out : sequence of int
        Batch sizes that are not fitted to, and tell how wrong the fit is.
    most_flops, most_bandwidth : float, optional
        Ceilings that were measured; nothing reaches more.
    one_launch : bool, optional
        A launch takes the same time whatever the part, as a :class:`var_core.systems.devices.Device` has it.

    Raises
    ------
    VarError
        If a batch size to be held out was not measured, too little is left to fit to, or a time is not above 0.
    """
    measured = np.asarray(seconds, dtype=np.float64)
    missing = sorted(set(held_out) - set(work.batch.tolist()))
    if missing:
        known = ", ".join(map(str, np.unique(work.batch)))
        raise VarError(f"calibration: batch size {missing[0]} is to be held out, but was not measured; {known} were")
    if not (np.isfinite(measured) & (measured > 0)).all():
        place = int(np.argmin(np.isfinite(measured) & (measured > 0)))
        raise VarError(f"calibration: row {place} ({work.part[place]}): a measured time must be above 0; profile again")
    out = np.isin(work.batch, held_out)
    parts = list(dict.fromkeys(work.part))
    unseen = set(parts) - {part for part, left in zip(work.part, ~out, strict=True) if left}
    if (~out).sum() < _LEAST + len(parts) or unseen:
        raise VarError(
            f"calibration: {int((~out).sum())} measured times of {len(parts)} parts are too few to fit to when batch "
            f"sizes {', '.join(map(str, held_out))} are held out; profile more batch sizes"
        )
    kinds = dict.fromkeys(parts, "any") if one_launch else {part: part for part in parts}
    flops, bandwidth, starts = _fit(_some(work, ~out), measured[~out], kinds, (most_flops, most_bandwidth))
    launch = {part: starts[kind] for part, kind in kinds.items()}
    nothing = Error(float("nan"), float("nan"), 0)
    fit = Calibration(flops, bandwidth, launch, nothing, nothing, nothing)
    predicted = fit.seconds(work)
    passes = np.unique(work.forward[out])
    sums = [np.array([each[work.forward == one].sum() for one in passes]) for each in (predicted, measured)]
    return replace(
        fit,
        fitted=Error.of(predicted[~out], measured[~out]),
        heldout=Error.of(predicted[out], measured[out]),
        heldout_passes=Error.of(*sums),
    )


def _some(work: Work, chosen: NDArray[np.bool_]) -> Work:
    return Work(
        [each for each, own in zip(work.part, chosen, strict=True) if own],
        work.batch[chosen], work.flops[chosen], work.bytes[chosen], work.launches[chosen], work.forward[chosen],
    )  # fmt: skip


def _fit(
    work: Work, seconds: Floats, kinds: Mapping[str, str], most: tuple[float, float]
) -> tuple[float, float, dict[str, float]]:
    """Try balances, coarsely and then finely; operations, bytes a second, and seconds of a launch of each kind."""
    own = list(dict.fromkeys(kinds.values()))
    number = np.array([own.index(kinds[part]) for part in work.part])
    starts = np.eye(len(own))[number] * work.launches[:, None]

    def solve(logarithm: float) -> tuple[float, Floats]:
        return _solve(work, starts, seconds, float(np.exp(logarithm)), most)

    moving = (work.flops > 0) & (work.bytes > 0)
    intensity = np.log(work.flops[moving] / work.bytes[moving]) if moving.any() else np.zeros(1)
    grid = np.linspace(intensity.min() - 1, intensity.max() + 1, _BALANCES)
    best = int(np.argmin([solve(each)[0] for each in grid]))
    ends = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    fine = float(minimize_scalar(lambda each: solve(each)[0], bounds=ends, method="bounded").x)
    chosen = min((float(grid[best]), fine), key=lambda each: solve(each)[0])
    by_flop, *launch = solve(chosen)[1].tolist()
    flops = 1 / by_flop if by_flop > 0 else np.inf
    # Of a limit that no part met nothing is known, but that it is at most the ceiling.
    by_operations, by_bytes = _bound(work, float(np.exp(chosen)))
    found = (flops if by_operations else most[0], flops / float(np.exp(chosen)) if by_bytes else most[1])
    return *found, dict(zip(own, launch, strict=True))


def _bound(work: Work, balance: float) -> tuple[bool, bool]:
    """Whether any part is bound by its operations, and any by its bytes."""
    by_bytes = work.bytes * balance > work.flops
    return bool((~by_bytes & (work.flops > 0)).any()), bool(by_bytes.any())


def _solve(
    work: Work, starts: Floats, seconds: Floats, balance: float, most: tuple[float, float]
) -> tuple[float, Floats]:
    """Best parameters for one balance, none below what the ceilings allow; their loss before them."""
    amount = np.maximum(work.flops, work.bytes * balance)
    columns = np.column_stack((amount, starts)) / seconds[:, None]
    # Columns of like size, as the method wants them.
    scale = np.abs(columns).max(axis=0)
    scale[scale == 0] = 1.0
    lowest = np.zeros(columns.shape[1])
    by_operations, by_bytes = _bound(work, balance)
    lowest[0] = max(by_operations / most[0], by_bytes / (balance * most[1])) * scale[0]
    result = lsq_linear(columns / scale, np.ones(len(seconds)), (lowest, np.inf))
    return float(result.cost), result.x / scale
