"""Upper bounds on a mean loss difference over sequences: an exact one for clipped differences, an approximate one."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from var_core.errors import VarError
from var_core.policy.bounds import Clusters, Method, sums_by, upper_bounds


class ClippedBound(NamedTuple):
    """An upper bound on a mean loss difference, with the range that its promise is about."""

    bound: float
    """for the mean over tokens of the smaller of the sequence's difference and `high`, in nats a token"""
    low: float
    """differences below count as this; that makes the bound no less true"""
    high: float
    """differences above count as this, so nothing is promised about how far above they are"""
    above: int
    """sequences whose difference is above `high`"""


def clipped_loss_bound(
    differences: ArrayLike,
    tokens: ArrayLike,
    longest: float,
    clip: tuple[float, float],
    delta: float,
    method: Method = "betting",
    cluster: NDArray[np.integer] | None = None,
) -> ClippedBound:
    """Upper bound on a mean loss difference of unbounded sequences, exact for differences clipped to a range.

    No finite-sample bound exists for the mean of an unbounded variable: one sequence in a thousand may cost anything.
    Guarantee: with probability at least 1 - `delta`, the population's mean over tokens of min(d, `high`) is at most
    the bound, d being the mean difference of the token's sequence. The clip must be chosen before the data are seen.

    Parameters
    ----------
    differences : float array, shape (S,)
        Loss of the policy minus the plain model's, summed over the sequence's predicted tokens, in nats.
    tokens : int array, shape (S,)
        Number of predicted tokens.
    longest : float
        Largest number of predicted tokens that a sequence, or cluster of them, can have.
    clip : (float, float)
        Low and high end of the range, in nats a token.
    delta : float
    method : see :func:`lower_bounds`
    cluster : int array, shape (S,), optional
        Sequences that are not independent of each other have the same; by default all are.
    """
    low, high = clip
    if not low < high:
        raise VarError(f"the range of clipped loss differences is {low:g} to {high:g}; its low end must be the smaller")
    counts = np.asarray(tokens, dtype=np.float64)
    means = np.divide(np.asarray(differences, np.float64), counts, out=np.full(len(counts), low), where=counts > 0)
    shares = (np.clip(means, low, high) - low) / (high - low)
    own = np.arange(len(counts)) if cluster is None else cluster
    share = upper_bounds(Clusters.of(sums_by(own, shares * counts), sums_by(own, counts), longest), delta, method)[0]
    return ClippedBound(float(low + share * (high - low)), low, high, int((means > high).sum()))


def student_upper_bound(sums: ArrayLike, counts: ArrayLike, delta: float) -> float | None:
    """Approximate upper bound on a ratio of sums, of bounded or unbounded sums.

    Student's t with S - 1 degrees of freedom on the linearised ratio (Cochran 1977). Guarantee: none in finite
    samples; the error tends to `delta` as sequences grow many, and is larger where rare sequences cost much. None with
    fewer than two sequences or no decisions.
    """
    above, below = np.asarray(sums, dtype=np.float64), np.asarray(counts, dtype=np.float64)
    sequences = len(above)
    if sequences < 2 or below.sum() <= 0:
        return None
    ratio = above.sum() / below.sum()
    error = np.sqrt(sequences / (sequences - 1) * ((above - ratio * below) ** 2).sum()) / below.sum()
    return float(ratio + stats.t.ppf(1 - delta, sequences - 1) * error)
