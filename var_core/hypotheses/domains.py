"""What stands in for unseen text where nothing was held out: each domain is predicted from all others."""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from var_core.config.hypotheses import HypothesesConfig
from var_core.hypotheses.data import ExpertCounts, Floats, Layer, RunData
from var_core.hypotheses.frequent import most_frequent
from var_core.hypotheses.recorded import not_tested
from var_core.hypotheses.resampling import MINIMUM_CLUSTERS, generator, jackknife_interval, monte_carlo_p
from var_core.hypotheses.results import Result, finite, interval_columns, null_columns
from var_core.statistics.measures import recalled_slots, slot_overlap_chance, token_table

LABELS_NULL = "table entries shuffled over these types"
VARIANT = "on domains left out"

_MEASURE = "mean recall_at_k"
_PHASE = re.compile(r":(prefill|decode|mixed)$")


def domain_recall_results(data: RunData, config: HypothesesConfig) -> Iterator[Result]:
    """Mean recall of the most frequent types in each domain, by a table fitted on all other domains.

    Domains differ more than documents of one domain do, so this asks more than unseen text of the same kind. Prefill
    and decode of a domain are of the same requests, so they are left out together.

    Yields
    ------
    Result
        A row a layer, then their mean; or one row that says why there is none. Verdicts are still to be given.
    """
    left_out = _without_phases(data.domains)
    if len(left_out) < 2:
        reason = f"nothing was held out, and there is no domain besides {', '.join(left_out)} to predict it from"
        above = config.h3.consistency_above
        yield not_tested(
            "H3", "corrected", VARIANT, _MEASURE, reason, n_unit="domains", threshold=above, direction="above"
        )
        return
    recalls, nulls = [], []
    for layer in data.layers:
        recall, null = _layer_recall(data, layer, left_out, config)
        recalls.append(recall)
        nulls.append(null)
        yield _row(recall, null, layer.layer, list(left_out), data, config)
    yield _row(np.mean(recalls, axis=0), np.mean(nulls, axis=0), None, list(left_out), data, config)


def _without_phases(domains: Sequence[str]) -> Mapping[str, Sequence[str]]:
    """Name without a phase -> domains of that name."""
    named = defaultdict(list)
    for domain in domains:
        named[_PHASE.sub("", domain)].append(domain)
    return named


def _layer_recall(
    data: RunData, layer: Layer, left_out: Mapping[str, Sequence[str]], config: HypothesesConfig
) -> tuple[Floats, Floats]:
    """Recall in each domain, shape (D,), and its mean over domains with shuffled entries, shape (B,)."""
    whole = data.expert_counts(layer)
    random = generator(config.seed, "H3", "domains", layer.layer)
    recalls, nulls = [], []
    for domains in left_out.values():
        own = data.expert_counts(layer, domains=domains)
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


def _row(
    recall: Floats, null: Floats, layer: int | None, names: Sequence[str], data: RunData, config: HypothesesConfig
) -> Result:
    domains = len(recall)
    statistic = float(recall.mean())
    without = (recall.sum() - recall) / (domains - 1)
    # The tables of two domains share what the other domains say, so their recalls are less apart than those of
    # strangers: of a few domains such an interval would be too narrow.
    enough = domains >= MINIMUM_CLUSTERS
    interval = jackknife_interval(statistic, without, config.confidence, "logit") if enough else None
    method = f"jackknife over {domains} left-out domains, which are taken for a sample of such, logit"
    each = ", ".join(f"{name} {value:.3f}" for name, value in zip(names, recall, strict=True))
    chance = slot_overlap_chance(data.layers[0].experts, data.layers[0].top_k)
    few = "" if enough else f"; fewer than {MINIMUM_CLUSTERS} domains say too little of others for an interval"
    return Result(
        hypothesis="H3",
        form="corrected",
        variant=VARIANT,
        layer=layer,
        measure=_MEASURE,
        statistic=finite(statistic),
        **interval_columns(interval, config.confidence, method),
        p=monte_carlo_p(statistic, null, "above"),
        p_below=config.false_discovery_rate,
        **null_columns(LABELS_NULL, null),
        n=domains,
        n_unit="domains",
        threshold=config.h3.consistency_above,
        direction="above",
        note=f"nothing was held out, so each domain is predicted from the others: {each}; chance {chance:.3f}{few}",
    )
