"""What tables gain over others: held-out agreement of as many decisions, each covering those it is surest of."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from var_core.errors import VarError
from var_core.hypotheses.resampling import bootstrap_weights, generator, percentile_interval
from var_core.policy.calibration import Measure, agreement_scores, rows_of
from var_core.policy.recorded import RecordedDecisions, read_decisions
from var_core.policy.tables import PolicyTables
from var_core.routing.batch import RouterLayout

Floats = NDArray[np.float64]
COVERAGES = np.arange(1, 11) / 10
MEASURES: tuple[Measure, ...] = ("set_agreement", "recall_at_k")

_BINS = 2000
"""Rows that own few decisions are put together with their neighbours in agreement to this many bins."""


@dataclass(frozen=True)
class LayerGain:
    """Held-out agreement at one layer of as many decisions under two calibrated tables.

    Attributes
    ----------
    layer : int
    measure : {"set_agreement", "recall_at_k"}
    coverage : numpy.ndarray
        float64 [M]: shares of the decisions.
    baseline, best : numpy.ndarray
        float64 [M]: agreement of the decisions that each covers.
    low, high : numpy.ndarray
        float64 [M]: confidence interval of :attr:`gain`; NaN with fewer than 10 clusters.
    """

    layer: int
    measure: Measure
    coverage: Floats
    baseline: Floats
    best: Floats
    low: Floats
    high: Floats

    @property
    def gain(self) -> Floats:
        """What the best gains over the baseline."""
        return self.best - self.baseline


def coverage_curve(score: Floats, promised: Floats, coverages: Floats = COVERAGES) -> Floats:
    """Agreement of the decisions that are covered at each share, from the best promised agreement down.

    Of decisions with the same promise, any may be covered; their mean counts, which is what to expect of a random one.

    Parameters
    ----------
    score : numpy.ndarray
        float64 [N]: agreement of each decision.
    promised : numpy.ndarray
        float64 [N]: agreement that its row was calibrated to.
    coverages : numpy.ndarray, optional
        float64 [M], more than 0 and at most 1.
    """
    _, place = np.unique(-promised, return_inverse=True)
    return _curve(np.stack([np.bincount(place), np.bincount(place, score)]).astype(np.float64), coverages)


def gain_at_equal_coverage(
    baseline: PolicyTables,
    best: PolicyTables,
    layout: RouterLayout,
    traces: Sequence[Path],
    cluster: NDArray[np.integer],
    *,
    isolate_documents: bool,
    coverages: Floats = COVERAGES,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> list[LayerGain]:
    """Compare two calibrated tables on a split that neither was fitted nor calibrated on, by layer and measure.

    Each decision has its owner's agreement for a promise, of whatever measure the tables were calibrated by.
    Decisions without a row of their own come last, by the row for everything, so that both tables can cover all
    decisions. Intervals are from a bootstrap over clusters, the same resamples for both tables; the tables are
    taken as given.

    Parameters
    ----------
    baseline, best : PolicyTables
        Such as :func:`var_core.policy.tables.token_only` calibrated, and with pairs.
    layout : RouterLayout
    traces : sequence of Path
        Of the split.
    cluster : numpy.ndarray
        int [S]: a cluster for each sequence of the trace, in ascending order of sequences; sequences of one cluster
        are resampled together.
    isolate_documents : bool
        Whether positions restarted with every document.
    coverages : numpy.ndarray, optional
    confidence : float, optional
        Of the intervals, each by itself.
    resamples, seed : int, optional

    Raises
    ------
    VarError
        If there are not as many clusters as sequences.
    """
    gains = []
    for layer, shape in enumerate(layout.layers):
        recorded = read_decisions(traces, layer, shape.experts, shape.top_k, isolate_documents)
        sequences, place = np.unique(recorded.sequence, return_inverse=True)
        if len(cluster) != len(sequences):
            raise VarError(f"{len(cluster)} clusters were given for the {len(sequences)} sequences of the trace")
        names, number = np.unique(cluster, return_inverse=True)
        weights = bootstrap_weights(len(names), resamples, generator(seed, "gain", layer))
        for measure in MEASURES:
            curves, draws = [], []
            for tables in (baseline, best):
                score, promised = promises(tables, layer, layout, recorded, measure)
                sums = _by_cluster(score, promised, number[place], len(names))
                curves.append(_curve(sums.sum(axis=1), coverages))
                draws.append(np.stack([_curve(each, coverages) for each in _resampled(weights, sums)]))
            difference = (draws[1] - draws[0]).T
            ends = [percentile_interval(each, len(names), confidence) or (np.nan, np.nan) for each in difference]
            low, high = np.array(ends, dtype=np.float64).T
            gains.append(LayerGain(layer, measure, coverages, curves[0], curves[1], low, high))
    return gains


def promises(
    tables: PolicyTables, layer: int, layout: RouterLayout, recorded: RecordedDecisions, measure: Measure
) -> tuple[Floats, Floats]:
    """Each decision's agreement, and the agreement that its owner was calibrated to; -1 where nothing was promised.

    Parameters
    ----------
    tables : PolicyTables
        Calibrated.
    layer : int
    layout : RouterLayout
    recorded : RecordedDecisions
    measure : {"set_agreement", "recall_at_k"}
    """
    row = tables.any_row(rows_of(tables, recorded))[layer].numpy()
    promised = np.nan_to_num(tables.agreement[layer].numpy().astype(np.float64), nan=-1.0)
    promised[-1] = -1.0
    return agreement_scores(tables, layer, layout, recorded, row, measure), promised[row]


def _curve(sums: Floats, coverages: Floats) -> Floats:
    """Agreement at each coverage, of decisions and their summed agreement, [2, G], from the best promise down."""
    n, agreed = np.pad(sums.cumsum(axis=1), ((0, 0), (1, 0)))
    wanted = coverages * n[-1]
    return np.interp(wanted, n, agreed) / wanted


def _by_cluster(score: Floats, promised: Floats, cluster: NDArray[np.int64], clusters: int) -> Floats:
    """Decisions and their summed agreement by cluster and promise, [2, D, G], from the best promise down."""
    _, place, n = np.unique(-promised, return_inverse=True, return_counts=True)
    binned = (np.cumsum(n) - n) * _BINS // len(score)
    _, binned = np.unique(binned, return_inverse=True)
    groups = int(binned[-1]) + 1
    cell = cluster * groups + binned[place]
    sums = [np.bincount(cell, part, clusters * groups) for part in (np.ones(len(score)), score)]
    return np.stack(sums).astype(np.float64).reshape(2, clusters, groups)


def _resampled(weights: Floats, sums: Floats) -> Floats:
    """The same sums in each resample, [B, 2, G]."""
    return np.stack([weights @ part for part in sums], axis=1)
