"""Agreement of one layer's token table with the learned router on held-out text, and its curve over coverage."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from var_core.config.hypotheses import AgreementMeasure, HypothesesConfig
from var_core.hypotheses.agreement import (
    BINS,
    MEASURES,
    Coverage,
    Halving,
    fit_global,
    fit_table,
    measure_coverage,
    scores,
)
from var_core.hypotheses.data import ExpertCounts, Floats, Heldout, Layer, weighted_sums
from var_core.hypotheses.resampling import generator, ratio_intervals
from var_core.hypotheses.results import Curve, finite
from var_core.statistics.measures import first_repeat_chance, set_agreement_chance, slot_overlap_chance

CURVE_POINTS = 200
"""Points that a curve has at most."""


@dataclass(frozen=True)
class LayerAgreement:
    """Sums of agreement by one measure; adding two pools their layers."""

    measure: AgreementMeasure
    coverages: tuple[Coverage, ...]
    """what could be covered, for each way of halving the held-out documents"""
    n: Floats
    """held-out decisions of each cluster, shape (D,)"""
    agreed: Floats
    """agreement of the token table, summed, shape (D,)"""
    blind: Floats
    """agreement of the global table, summed, shape (D,)"""
    chance: float
    """expected agreement of a blind guess, summed"""
    shuffled: Floats
    """agreement of each table with shuffled labels, summed, shape (B,)"""
    shuffled_coverage: tuple[Coverage, ...]
    """the same coverage with each table with shuffled labels; only for the measure that the verdict uses"""

    def __add__(self, other: "LayerAgreement") -> "LayerAgreement":
        return LayerAgreement(
            self.measure,
            tuple(a + b for a, b in zip(self.coverages, other.coverages, strict=True)),
            self.n + other.n,
            self.agreed + other.agreed,
            self.blind + other.blind,
            self.chance + other.chance,
            self.shuffled + other.shuffled,
            tuple(a + b for a, b in zip(self.shuffled_coverage, other.shuffled_coverage, strict=True)),
        )


def measure_layer(
    counts: ExpertCounts,
    heldout: Heldout,
    layer: Layer,
    halvings: Sequence[Halving],
    config: HypothesesConfig,
    measures: Sequence[AgreementMeasure] = MEASURES,
) -> Iterator[LayerAgreement]:
    """Score the token table, the global table and shuffled tables on the held-out decisions, by each measure."""
    first = halvings[0]
    place = first.place(heldout.document)
    cluster, fold, together = first.cluster[place], first.fold[place], np.zeros_like(place)
    types = len(counts.n)

    def coverages(score: Floats) -> tuple[Coverage, ...]:
        return tuple(
            measure_coverage(
                score, heldout.type_index, types, half.fold[place], half.test_cluster[place], half.test_clusters
            )
            for half in halvings
        )

    table = fit_table(counts, layer.top_k, config.table_minimum_count)
    own = scores(heldout, table, layer.top_k)
    blind = scores(heldout, fit_global(counts, layer.top_k), layer.top_k)
    shuffled: dict[AgreementMeasure, list[float]] = {measure: [] for measure in measures}
    shuffled_coverage = []
    random = generator(config.seed, "H4", "labels", layer.layer)
    for _ in range(config.null_draws):
        drawn = scores(heldout, table.shuffled(counts.n >= config.table_minimum_count, random), layer.top_k)
        for measure in measures:
            shuffled[measure].append(float(drawn[measure].sum()))
        score = drawn[config.h4.agreement_measure]
        shuffled_coverage.append(measure_coverage(score, heldout.type_index, types, fold, together, 1))
    n = weighted_sums(cluster, np.ones(len(cluster)), first.clusters)
    chance = _chances(layer)
    for measure in measures:
        yield LayerAgreement(
            measure,
            coverages(own[measure]),
            n,
            weighted_sums(cluster, own[measure], first.clusters),
            weighted_sums(cluster, blind[measure], first.clusters),
            chance[measure] * len(place),
            np.array(shuffled[measure]),
            tuple(shuffled_coverage) if measure == config.h4.agreement_measure else (),
        )


def _chances(layer: Layer) -> dict[AgreementMeasure, float]:
    """Agreement of a blind guess."""
    return {
        "recall_at_k": slot_overlap_chance(layer.experts, layer.top_k),
        "top1_agreement": first_repeat_chance(layer.experts),
        "set_agreement": set_agreement_chance(layer.experts, layer.top_k),
    }


def agreement_curve(measured: LayerAgreement, layer: int | None, weights: Floats, config: HypothesesConfig) -> Curve:
    """Trace coverage against agreement on the test half of the first halving, from the best calibrated down.

    Parameters
    ----------
    measured : LayerAgreement
    layer : int or None
    weights : float array, shape (B, D)
        Bootstrap weights of the clusters of its test half.
    config : HypothesesConfig
    """
    coverage = measured.coverages[0]
    order = np.arange(BINS)[::-1]
    share = coverage.n.sum(axis=0)[order].cumsum()
    everything = share[-1]
    points = np.zeros(0, dtype=np.int64)
    if everything:
        marks = np.linspace(0, 1, CURVE_POINTS + 1)[1:] * everything
        points = np.unique(np.searchsorted(share, marks * (1 - 1e-12)))
    n = coverage.n[:, order].cumsum(axis=1)[:, points]
    agreed = coverage.agreed[:, order].cumsum(axis=1)[:, points]
    low, high = ratio_intervals(agreed, n, weights, config.confidence)
    total = measured.n.sum()
    return Curve(
        measure=measured.measure,
        layer=layer,
        threshold=tuple(float(each) for each in order[points] / BINS),
        coverage=_rounded(n.sum(axis=0), np.full(len(points), everything)),
        agreement=_rounded(agreed.sum(axis=0), n.sum(axis=0)),
        low=_finite_rounded(low),
        high=_finite_rounded(high),
        promised=_finite_rounded(coverage.promise(order[points])),
        global_table=finite(measured.blind.sum() / total),
        shuffled_labels=finite(measured.shuffled.mean() / total),
        chance=finite(measured.chance / total),
    )


def _rounded(parts: Floats, wholes: Floats) -> tuple[float | None, ...]:
    """Ratios; None where there is nothing to divide by."""
    return _finite_rounded(np.divide(parts, wholes, out=np.full(len(parts), np.nan), where=wholes > 0))


def _finite_rounded(values: Floats) -> tuple[float | None, ...]:
    """Values to six digits, more than a figure can show; None where not finite."""
    return tuple(finite(round(each, 6)) for each in values.tolist())
