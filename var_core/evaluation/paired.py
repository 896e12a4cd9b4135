"""Is a policy's loss within a margin of the plain model's? A comparison paired by sequence.

Tokens of one sequence share its difficulty and what the policy does to it, so sequences are resampled, not tokens.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from var_core.errors import VarError
from var_core.hypotheses.resampling import (
    MINIMUM_CLUSTERS,
    Interval,
    bootstrap_weights,
    generator,
    jackknife_interval,
    percentile_interval,
)
from var_core.hypotheses.results import Record
from var_core.models.perplexity import SequenceScores

Floats = NDArray[np.float64]
MarginKind = Literal["loss", "perplexity"]
IntervalMethod = Literal["bca", "percentile"]
MarginVerdict = Literal["within the margin", "not within the margin", "inconclusive"]

_CHUNK_VALUES = 2**22
_LARGE_SKEWNESS = 1.0
_MANY_SEQUENCES = 200
_SKEWED = "few sequences carry the cost: 'within the margin' may come out more often than alpha; take more sequences"


@dataclass(frozen=True)
class Margin:
    """What the policy may cost.

    Attributes
    ----------
    size : float
        Share by which the policy's loss (or perplexity) may exceed the plain model's.
    kind : {"loss", "perplexity"}
        What the share is of: the mean loss in nats a token, or its exponential.
    alpha : float
        Probability with which a policy outside the margin may be called within it, and the other way round.
    """

    size: float = 0.05
    kind: MarginKind = "loss"
    alpha: float = 0.05


class LossComparison(Record):
    """Loss of a policy beside the plain model's on the same tokens, and whether it is within the margin."""

    sequences: int
    """sequences with predicted tokens: the units that are resampled"""
    tokens: int
    """predicted tokens"""
    plain_loss: float
    """mean loss of the plain model, in nats a token"""
    policy_loss: float
    """mean loss of the policy, in nats a token"""
    difference: float
    """policy minus plain, in nats a token: a ratio of sums over sequences"""
    difference_low: float | None = None
    """lower end of its interval; null with too few sequences"""
    difference_high: float | None = None
    """upper end of its interval"""
    jackknife_low: float | None = None
    """lower end by leaving out one sequence at a time, as a check"""
    jackknife_high: float | None = None
    """upper end by leaving out one sequence at a time"""
    relative: float
    """difference over the plain model's loss"""
    relative_low: float | None = None
    """lower end of its interval"""
    relative_high: float | None = None
    """upper end of its interval"""
    perplexity_ratio: float
    """policy over plain: the exponential of the difference"""
    perplexity_ratio_low: float | None = None
    """lower end of its interval"""
    perplexity_ratio_high: float | None = None
    """upper end of its interval"""
    confidence: float
    """confidence of the two-sided intervals"""
    interval_method: str | None = None
    """how the intervals were made"""
    margin: float
    """share by which the policy may exceed the plain model"""
    margin_kind: MarginKind
    """what the share is of: loss or perplexity"""
    alpha: float
    """level of the tests"""
    p_within: float | None = None
    """p-value of "the policy is at or beyond the margin"; small: it is within"""
    p_beyond: float | None = None
    """p-value of "the policy is at or within the margin"; small: it is beyond"""
    skewness: float | None = None
    """of the sequences' excess over the margin; where it is large, few sequences carry the cost"""
    verdict: MarginVerdict
    """within the margin, not within the margin, or inconclusive"""
    note: str = ""
    """what a reader must know beside the numbers"""


class MarginTest(NamedTuple):
    """P-values of the two one-sided tests at the margin."""

    within: float
    """of the null that the mean excess is at least 0"""
    beyond: float
    """of the null that the mean excess is at most 0"""


def compare_losses(
    policy: SequenceScores,
    plain: SequenceScores,
    margin: Margin | None = None,
    confidence: float = 0.95,
    interval: IntervalMethod = "bca",
    resamples: int = 2000,
    seed: int = 0,
) -> LossComparison:
    """Compare the losses of a policy and of the plain model on the same sequences.

    The null of the non-inferiority test is that the policy's loss is at least (1 + margin) times the plain model's (or
    its perplexity, for a margin of that kind); the policy is "within the margin" where this is rejected at `alpha`,
    "not within the margin" where the opposite null is, and otherwise the text does not say (:func:`margin_test`).
    Intervals and tests are approximate, from resampling sequences; with fewer than ``MINIMUM_CLUSTERS`` there are none.

    Parameters
    ----------
    policy, plain : SequenceScores
    margin : Margin, optional
        5 % of the loss by default.
    confidence : float, optional
    interval : {"bca", "percentile"}, optional
        Bias-corrected and accelerated (Efron 1987), or the plain quantiles of the resamples.
    resamples : int, optional
    seed : int, optional

    Raises
    ------
    VarError
        If the two were not scored on the same tokens, a loss is not finite, or nothing was predicted.
    """
    margin = margin or Margin()
    ours, theirs, tokens = _paired(policy, plain)
    difference = ours - theirs
    values = {
        "sequences": len(tokens),
        "tokens": int(tokens.sum()),
        "plain_loss": theirs.sum() / tokens.sum(),
        "policy_loss": ours.sum() / tokens.sum(),
        "difference": difference.sum() / tokens.sum(),
        "relative": difference.sum() / theirs.sum(),
        "perplexity_ratio": np.exp(difference.sum() / tokens.sum()),
        "confidence": confidence,
        "margin": margin.size,
        "margin_kind": margin.kind,
        "alpha": margin.alpha,
    }
    if len(tokens) < MINIMUM_CLUSTERS:
        note = f"{len(tokens)} sequences are too few to say how sure this is; {MINIMUM_CLUSTERS} are needed"
        return LossComparison(**values, verdict="inconclusive", note=note)

    excess = excess_over_margin(ours, theirs, tokens, margin)
    centred = excess - excess.mean()
    sums = _resampled_sums(np.stack([difference, tokens, theirs, centred, centred**2], axis=1), resamples, seed)
    test = margin_test(excess, sums[:, 3], sums[:, 4])
    method = {"bca": "bias-corrected and accelerated", "percentile": "percentile"}[interval]
    skewness = float((centred**3).mean() / centred.std() ** 3) if centred.any() else 0.0
    by_tokens = _ratio_ends(difference, tokens, sums[:, 0] / sums[:, 1], confidence, interval)
    return LossComparison(
        **values,
        **_columns("difference", by_tokens),
        **_columns("jackknife", jackknife_interval(values["difference"], _left_out(difference, tokens), confidence)),
        **_columns("relative", _ratio_ends(difference, theirs, sums[:, 0] / sums[:, 2], confidence, interval)),
        **_columns("perplexity_ratio", None if by_tokens is None else Interval(*np.exp(by_tokens))),
        interval_method=f"{method} bootstrap over sequences, {resamples} resamples",
        p_within=test.within,
        p_beyond=test.beyond,
        skewness=skewness,
        verdict=margin_verdict(test, margin.alpha),
        note=_SKEWED if skewness > _LARGE_SKEWNESS and len(tokens) < _MANY_SEQUENCES else "",
    )


def excess_over_margin(policy: Floats, plain: Floats, tokens: Floats, margin: Margin) -> Floats:
    """By how much each sequence's summed loss exceeds what the margin allows; in sum 0 exactly at the margin.

    A margin on the loss: policy - (1 + margin) plain. On the perplexity: policy - plain - tokens ln(1 + margin).
    """
    if margin.kind == "loss":
        return np.asarray(policy - (1 + margin.size) * plain)
    return np.asarray(policy - plain - np.log1p(margin.size) * tokens)


def margin_test(excess: Floats, centred_sums: Floats, centred_squares: Floats) -> MarginTest:
    """Test the mean excess over the margin of S sequences from both sides.

    The larger of two p-values each: Student's t with S - 1 degrees of freedom, and the bootstrap of the same t
    (Efron's bootstrap-t), (1 + b) / (1 + B). Guarantee: none in finite samples, and none is possible for losses without
    a bound. Where few sequences carry the cost, "within" comes too often, though less so than by Student's t alone;
    the exact alternative is :func:`var_core.policy.loss_bounds.clipped_loss_bound`.

    Parameters
    ----------
    excess : float array, shape (S,)
    centred_sums, centred_squares : float array, shape (B,)
        Sums of the excess minus its mean, and of the squares of this, in each resample of S sequences.
    """
    sequences = len(excess)
    observed = _t_statistic(np.asarray(excess.mean()), np.asarray(excess.var()), sequences)
    means = centred_sums / sequences
    draws = _t_statistic(means, np.maximum(centred_squares / sequences - means**2, 0), sequences)
    student = float(stats.t.cdf(observed, sequences - 1)), float(stats.t.sf(observed, sequences - 1))
    counts = (draws <= observed).sum(), (draws >= observed).sum()
    within, beyond = (max(p, float(1 + count) / (1 + len(draws))) for p, count in zip(student, counts, strict=True))
    return MarginTest(within, beyond)


def margin_verdict(test: MarginTest, alpha: float) -> MarginVerdict:
    """Give the verdict on the two tests; the only place where it is made."""
    if test.within <= alpha:
        return "within the margin"
    return "not within the margin" if test.beyond <= alpha else "inconclusive"


def bca_interval(estimate: float, draws: Floats, left_out: Floats, confidence: float) -> Interval | None:
    """Bias-corrected and accelerated bootstrap interval (Efron 1987).

    Parameters
    ----------
    estimate : float
        The statistic of all the data.
    draws : float array, shape (B,)
        The statistic in each resample.
    left_out : float array, shape (S,)
        The statistic without each cluster in turn, for the acceleration.
    confidence : float

    Returns
    -------
    Interval or None
        None with fewer than ``MINIMUM_CLUSTERS`` clusters or a value that is not finite. A statistic that is the same
        in all resamples has an interval of no width.
    """
    if len(left_out) < MINIMUM_CLUSTERS or not (np.isfinite(draws).all() and np.isfinite(left_out).all()):
        return None
    below = ((draws < estimate).mean() + (draws <= estimate).mean()) / 2
    if below in (0, 1):
        return percentile_interval(draws, len(left_out), confidence)
    bias = stats.norm.ppf(below)
    deviations = left_out.mean() - left_out
    spread = (deviations**2).sum() ** 1.5
    acceleration = (deviations**3).sum() / (6 * spread) if spread > 0 else 0.0
    moved = bias + stats.norm.ppf([(1 - confidence) / 2, (1 + confidence) / 2])
    low, high = np.quantile(draws, stats.norm.cdf(bias + moved / (1 - acceleration * moved)))
    return Interval(float(low), float(high))


def _left_out(parts: Floats, wholes: Floats) -> Floats:
    """Ratio of sums without each sequence in turn."""
    return np.asarray((parts.sum() - parts) / (wholes.sum() - wholes))


def _ratio_ends(
    parts: Floats, wholes: Floats, draws: Floats, confidence: float, method: IntervalMethod
) -> Interval | None:
    if method == "percentile":
        return percentile_interval(draws, len(parts), confidence)
    return bca_interval(float(parts.sum() / wholes.sum()), draws, _left_out(parts, wholes), confidence)


def _columns(name: str, ends: Interval | None) -> dict[str, float]:
    return {} if ends is None else {f"{name}_low": ends.low, f"{name}_high": ends.high}


def _t_statistic(mean: Floats, variance: Floats, sequences: int) -> Floats:
    """Mean over its standard error; where that is 0, an infinity of the mean's sign, and 0 for a mean of 0."""
    error = np.sqrt(variance / (sequences - 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.nan_to_num(mean / error, nan=0.0, posinf=np.inf, neginf=-np.inf))


def _paired(policy: SequenceScores, plain: SequenceScores) -> tuple[Floats, Floats, Floats]:
    """Summed losses of both and tokens of the sequences that have any."""
    if len(policy.predicted) != len(plain.predicted):
        raise VarError(
            f"losses of {len(policy.predicted)} sequences with the policy and {len(plain.predicted)} without cannot be "
            "paired; score both on the same text"
        )
    unequal = np.flatnonzero(policy.predicted != plain.predicted)
    if len(unequal):
        row = int(unequal[0])
        raise VarError(
            f"sequence {row}: {policy.predicted[row]} tokens predicted with the policy and {plain.predicted[row]} "
            "without; score both on the same text"
        )
    used = plain.predicted > 0
    for scores, name in ((policy, "with the policy"), (plain, "of the plain model")):
        bad = np.flatnonzero(~np.isfinite(scores.nll_sum) & used)
        if len(bad):
            raise VarError(f"sequence {int(bad[0])}: the loss {name} is NaN or infinite; load it in a wider dtype")
    if not used.any():
        raise VarError("no sequence has a predicted token; give sequences of two tokens or more")
    return policy.nll_sum[used], plain.nll_sum[used], plain.predicted[used].astype(np.float64)


def _resampled_sums(columns: Floats, resamples: int, seed: int) -> Floats:
    """Sums of the columns [S, C] over each resample of sequences, [B, C]; in parts, so that memory stays small."""
    random = generator(seed, "paired losses")
    rows = max(1, _CHUNK_VALUES // len(columns))
    parts = [
        bootstrap_weights(len(columns), min(rows, resamples - start), random) @ columns
        for start in range(0, resamples, rows)
    ]
    return np.concatenate(parts)
