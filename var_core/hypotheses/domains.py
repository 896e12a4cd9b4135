"""What stands in for unseen text where nothing was held out: each domain is predicted from all others."""

from collections.abc import Iterator

import numpy as np

from var_core.config.hypotheses import HypothesesConfig
from var_core.hypotheses.data import ExpertCounts, Floats, Layer, RunData
from var_core.hypotheses.frequent import most_frequent
from var_core.hypotheses.resampling import generator, jackknife_interval, monte_carlo_p
from var_core.hypotheses.results import Result, finite, interval_columns, null_columns
from var_core.statistics.measures import recalled_slots, slot_overlap_chance, token_table

LABELS_NULL = "table entries shuffled over these types"


def domain_recall_results(data: RunData, config: HypothesesConfig) -> Iterator[Result]:
    """Mean recall of the most frequent types in each domain, by a table fitted on all other domains.

    Domains differ more than documents of one domain do, so this asks more than unseen text of the same kind.

    Yields
    ------
    Result
        A row a layer, then their mean. Verdicts are still to be given.
    """
    recalls, nulls = [], []
    for layer in data.layers:
        recall, null = _layer_recall(data, layer, config)
        recalls.append(recall)
        nulls.append(null)
        yield _row(recall, null, layer.layer, data, config)
    yield _row(np.mean(recalls, axis=0), np.mean(nulls, axis=0), None, data, config)


def _layer_recall(data: RunData, layer: Layer, config: HypothesesConfig) -> tuple[Floats, Floats]:
    """Recall in each domain, shape (D,), and its mean over domains with shuffled entries, shape (B,)."""
    whole = data.expert_counts(layer)
    random = generator(config.seed, "H3", "domains", layer.layer)
    recalls, nulls = [], []
    for domain in data.domains:
        own = data.expert_counts(layer, domain=domain)
        recall, null = _domain_recall(whole.without(own), own, layer, random, config)
        recalls.append(recall)
        nulls.append(null)
    return np.array(recalls), np.mean(nulls, axis=0)


def _domain_recall(
    fitted: ExpertCounts, own: ExpertCounts, layer: Layer, random: np.random.Generator, config: HypothesesConfig
) -> tuple[float, Floats]:
    top = most_frequent(fitted.n, config.h3.most_frequent)
    table = token_table(fitted.chosen, fitted.n, layer.top_k, config.table_minimum_count)[top]
    slots = own.chosen[top].sum(axis=1)
    present = slots > 0
    if not present.any():
        return float("nan"), np.full(config.null_draws, np.nan)

    def mean_recall(entries: np.ndarray) -> float:
        return float((recalled_slots(entries, own.chosen[top])[present] / slots[present]).mean())

    shuffled = np.array([mean_recall(random.permutation(table)) for _ in range(config.null_draws)])
    return mean_recall(table), shuffled


def _row(recall: Floats, null: Floats, layer: int | None, data: RunData, config: HypothesesConfig) -> Result:
    domains = len(recall)
    statistic = float(recall.mean())
    left_out = (recall.sum() - recall) / max(domains - 1, 1)
    interval = jackknife_interval(statistic, left_out, config.confidence, "logit")
    each = ", ".join(f"{name} {value:.3f}" for name, value in zip(data.domains, recall, strict=True))
    chance = slot_overlap_chance(data.layers[0].experts, data.layers[0].top_k)
    return Result(
        hypothesis="H3",
        form="corrected",
        variant="on domains left out",
        layer=layer,
        measure="mean recall_at_k",
        statistic=finite(statistic),
        **interval_columns(interval, config.confidence, f"jackknife over {domains} domains, logit"),
        p=monte_carlo_p(statistic, null, "above"),
        p_below=config.false_discovery_rate,
        **null_columns(LABELS_NULL, null),
        n=domains,
        n_unit="domains",
        threshold=config.h3.consistency_above,
        direction="above",
        note=f"nothing was held out, so each domain is predicted from the others: {each}; chance {chance:.3f}",
    )
