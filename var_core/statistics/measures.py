"""Measures derived from exact counts: entropy, consistency, load, specialization, tables, repeats.

Everything here is plain numpy on count arrays, without a loop over token types. Shapes: V token types, E experts,
k experts chosen a decision. ``chosen[v, e]`` counts the decisions of type v that chose expert e (so a row sums to
k n), ``first[v, e]`` those in which e had the largest weight (a row sums to n), and ``n[v]`` the decisions.
Logarithms are natural and entropies in nats. A type without decisions has no value: NaN. Ties between experts go to
the lower id.
"""

from math import comb

import numpy as np
from numpy.typing import NDArray
from scipy.special import entr

Counts = NDArray[np.integer]
Floats = NDArray[np.float64]

SPECIALIZATION_MINIMUM = 10
"""Occurrences from which on a token type counts into ``vocabulary_specialization`` and has its own table entry."""


def shares(counts: Counts) -> Floats:
    """Divide counts by their sum along the last axis; all NaN where the sum is 0."""
    total = counts.sum(axis=-1, keepdims=True).astype(np.float64)
    return np.divide(counts, total, out=np.full(counts.shape, np.nan), where=total > 0)


def _ratio(part: NDArray[np.generic], whole: NDArray[np.generic]) -> Floats:
    """Divide elementwise; NaN where the divisor is 0."""
    above, below = np.asarray(part, dtype=np.float64), np.asarray(whole, dtype=np.float64)
    shape = np.broadcast_shapes(above.shape, below.shape)
    return np.divide(above, below, out=np.full(shape, np.nan), where=below > 0)


def selection_entropy(chosen: Counts) -> Floats:
    """Plug-in entropy of the experts that each type chose, in nats.

    Parameters
    ----------
    chosen : int array, shape (V, E)

    Returns
    -------
    float array, shape (V,)
        From ln k (always the same k experts) to ln E. Biased low for few decisions: a type seen once has exactly
        ln k whatever the router does. Compare types only after rarefaction
        (:mod:`var_core.statistics.rarefaction`) or with :func:`chao_shen_entropy`.
    """
    return np.asarray(entr(shares(chosen)).sum(axis=-1))


def selection_entropy_norm(entropy: Floats, experts: int, top_k: int) -> Floats:
    """Scale a selection entropy to 0 (always the same k experts) ... 1 (all E alike): (H - ln k) / (ln E - ln k).

    NaN when k = E, where nothing is selected.
    """
    if top_k >= experts:
        return np.full(np.shape(entropy), np.nan)
    return (entropy - np.log(top_k)) / (np.log(experts) - np.log(top_k))


def chao_shen_entropy(chosen: Counts) -> Floats:
    """Coverage-adjusted estimate of the selection entropy, in nats (Chao and Shen 2003).

    The share of the unseen is estimated from the experts seen once (Good-Turing), and each term is weighted by the
    inverse of the probability that its expert was seen at all (Horvitz-Thompson). The estimator takes the k n slots
    as independent; the k slots of one decision are distinct, so for types seen a few times some bias remains.

    Parameters
    ----------
    chosen : int array, shape (V, E)

    Returns
    -------
    float array, shape (V,)
    """
    slots = chosen.sum(axis=-1, keepdims=True).astype(np.float64)
    singletons = (chosen == 1).sum(axis=-1, keepdims=True).astype(np.float64)
    # With nothing but singletons the estimated coverage would be 0; the usual remedy is to count one fewer.
    singletons = np.where(singletons == slots, slots - 1, singletons)
    adjusted = shares(chosen) * (1 - _ratio(singletons, slots))
    with np.errstate(divide="ignore"):
        seen = -np.expm1(slots * np.log1p(-np.minimum(adjusted, 1.0)))
    terms = np.divide(entr(adjusted), seen, out=np.zeros_like(adjusted), where=seen > 0)
    return np.where(slots[..., 0] > 0, terms.sum(axis=-1), np.nan)


def modal_share(first: Counts, n: Counts) -> Floats:
    """Share of decisions whose first expert is the type's most frequent first expert: max_e f_e / n."""
    return _ratio(first.max(axis=-1), n)


def modal_in_topk(chosen: Counts, n: Counts) -> Floats:
    """Share of decisions that choose the type's most used expert: max_e c_e / n."""
    return _ratio(chosen.max(axis=-1), n)


def set_recall(chosen: Counts, top_k: int) -> Floats:
    """Share of a type's k n slots that fall on its own k most used experts; chance is k / E.

    Optimistic, for the k experts are picked on the counts they are scored on: a type seen once has 1.
    """
    largest = np.partition(chosen, chosen.shape[-1] - top_k, axis=-1)[..., -top_k:]
    return _ratio(largest.sum(axis=-1), chosen.sum(axis=-1))


def most_used(counts: Counts, top_k: int) -> NDArray[np.int64]:
    """Ids of the k largest counts along the last axis, largest first, ties to the lower id; shape (..., k)."""
    return np.argsort(-counts.astype(np.int64), axis=-1, kind="stable")[..., :top_k]


def load_max_over_mean(load: Counts) -> float:
    """Load of the busiest expert over the mean load; 1 when balanced, E when one expert takes all."""
    return float(_ratio(load.max(), load.mean()))


def load_variation(load: Counts) -> float:
    """Coefficient of variation of the load (standard deviation over all E experts / mean); 0 when balanced."""
    return float(_ratio(load.std(), load.mean()))


def load_entropy_norm(load: Counts) -> float:
    """Entropy of the load / ln E; 1 when balanced, 0 when one expert takes all."""
    return float(entr(shares(load)).sum() / np.log(len(load))) if len(load) > 1 else float("nan")


def load_gini(load: Counts) -> float:
    """Gini coefficient of the load: 0 when balanced, (E - 1) / E when one expert takes all."""
    ordered = np.sort(load).astype(np.float64)
    rank = np.arange(1, len(load) + 1)
    return float(_ratio(((2 * rank - len(load) - 1) * ordered).sum(), len(load) * ordered.sum()))


def vocabulary_specialization(chosen: Counts, n: Counts, minimum: int = SPECIALIZATION_MINIMUM) -> float:
    """Mean of :func:`modal_in_topk` over the types with at least `minimum` decisions; NaN when there is none."""
    enough = n >= minimum
    return float(modal_in_topk(chosen[enough], n[enough]).mean()) if enough.any() else float("nan")


def domain_specialization(chosen: Counts, tokens: Counts) -> Floats:
    """Share of each domain's decisions that choose each expert; chance is k / E.

    Parameters
    ----------
    chosen : int array, shape (domains, E)
    tokens : int array, shape (domains,)

    Returns
    -------
    float array, shape (domains, E)
    """
    return _ratio(chosen, tokens[:, None])


def token_table(chosen: Counts, n: Counts, top_k: int, minimum: int = SPECIALIZATION_MINIMUM) -> NDArray[np.int64]:
    """Fit a table from token type to k experts.

    Types with at least `minimum` decisions use their own k most used experts, all others the k that are most used
    over all types (:func:`global_table`).

    Parameters
    ----------
    chosen : int array, shape (V, E)
    n : int array, shape (V,)
    top_k : int
    minimum : int, optional

    Returns
    -------
    int array, shape (V, k)
        Most used first.
    """
    return np.where((n >= minimum)[:, None], most_used(chosen, top_k), global_table(chosen, top_k)[None, :])


def global_table(chosen: Counts, top_k: int) -> NDArray[np.int64]:
    """Return the k experts that are most used over all types, most used first; shape (k,)."""
    return most_used(chosen.sum(axis=0), top_k)


def table_recall(table: NDArray[np.integer], heldout: Counts) -> float:
    """Share of held-out slots that fall on the experts that a table names (``recall_at_k``).

    Parameters
    ----------
    table : int array, shape (V, k) or (k,)
        Predicted experts by type, or the same for all types.
    heldout : int array, shape (V, E)
        Counts from text that the table was not fitted on.

    Returns
    -------
    float
        NaN when there are no held-out slots.
    """
    return float(_ratio(recalled_slots(table, heldout).sum(), heldout.sum()))


def recalled_slots(table: NDArray[np.integer], heldout: Counts) -> NDArray[np.integer]:
    """Count, for each type, the held-out slots that fall on the experts that a table names; shape (V,)."""
    experts = np.broadcast_to(table, (len(heldout), table.shape[-1]))
    recalled: NDArray[np.integer] = np.take_along_axis(heldout, experts, axis=1).sum(axis=1)
    return recalled


def coactivation(pairs: Counts) -> Floats:
    """Share of the decisions with expert i that also chose j, N_ij / N_i.

    Parameters
    ----------
    pairs : int array, shape (E, E)
        Decisions that chose both i and j, over all ordered pairs; the diagonal is N_i.

    Returns
    -------
    float array, shape (E, E)
        Rows of experts that were never chosen are NaN.
    """
    return _ratio(pairs, np.diagonal(pairs)[:, None])


def coactivation_lift(pairs: Counts, tokens: int) -> Floats:
    """How much more often i and j are chosen together than if chosen independently, N_ij N / (N_i N_j).

    1 is the value for independent choices. As the k experts of a decision are distinct, a router that ignores its
    input stays somewhat below 1 for i != j: (k - 1) E / (k (E - 1)) when the load is even.

    Parameters
    ----------
    pairs : int array, shape (E, E)
        As for :func:`coactivation`.
    tokens : int
        Decisions, N.
    """
    load = np.diagonal(pairs).astype(np.float64)
    return _ratio(pairs * float(tokens), load[:, None] * load[None, :])


def mutual_information(joint: Counts) -> Floats:
    """Plug-in mutual information of two choices from their joint counts, in nats.

    Biased high by about (rows - 1)(columns - 1) / (2 N): subtract the value of a shuffle, which has the same bias
    (:func:`crosslayer_mi`).

    Parameters
    ----------
    joint : int array, shape (..., E, E')

    Returns
    -------
    float array, shape (...)
    """
    p = shares(joint.reshape(*joint.shape[:-2], -1)).reshape(joint.shape)
    together = entr(p).sum(axis=(-2, -1))
    return np.asarray(entr(p.sum(axis=-1)).sum(axis=-1) + entr(p.sum(axis=-2)).sum(axis=-1) - together)


def crosslayer_mi(joint: Counts, shuffled: Counts) -> Floats:
    """Mutual information of the choices at two layers minus that of a within-sequence shuffle; chance is 0."""
    return mutual_information(joint) - mutual_information(shuffled)


def first_repeat(first_repeats: Counts, pairs: Counts) -> Floats:
    """Share of consecutive pairs of tokens with the same largest-weight expert."""
    return _ratio(np.asarray(first_repeats), np.asarray(pairs))


def any_repeat(any_repeats: Counts, pairs: Counts) -> Floats:
    """Share of consecutive pairs of tokens whose chosen sets meet."""
    return _ratio(np.asarray(any_repeats), np.asarray(pairs))


def slot_overlap(slot_overlaps: Counts, pairs: Counts, top_k: int) -> Floats:
    """Mean size of the intersection of the sets of two consecutive tokens, / k."""
    return _ratio(np.asarray(slot_overlaps), np.asarray(pairs) * top_k)


def first_repeat_chance(experts: int) -> float:
    """:func:`first_repeat` of choices that are independent and even."""
    return 1 / experts


def any_repeat_chance(experts: int, top_k: int) -> float:
    """:func:`any_repeat` of choices that are independent and even: 1 - C(E - k, k) / C(E, k)."""
    return 1 - comb(experts - top_k, top_k) / comb(experts, top_k)


def slot_overlap_chance(experts: int, top_k: int) -> float:
    """:func:`slot_overlap` of choices that are independent and even, and ``recall_at_k`` of a blind guess: k / E."""
    return top_k / experts


def set_agreement_chance(experts: int, top_k: int) -> float:
    """Probability that a blind guess names exactly the k chosen experts: 1 / C(E, k)."""
    return 1 / comb(experts, top_k)
