"""H3: frequent tokens route consistently."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from var_core.config.hypotheses import HypothesesConfig
from var_core.hypotheses.agreement import Halving, fit_global, fit_table, halve, scores
from var_core.hypotheses.data import ExpertCounts, Floats, Ints, Layer, RunData, weighted_sums
from var_core.hypotheses.domains import domain_recall_results
from var_core.hypotheses.frequent import most_frequent
from var_core.hypotheses.nulls import load_only_counts
from var_core.hypotheses.recorded import not_tested
from var_core.hypotheses.resampling import (
    bootstrap_weights,
    generator,
    jackknife_interval,
    monte_carlo_p,
    percentile_interval,
)
from var_core.hypotheses.results import Result, finite, interval_columns, null_columns
from var_core.statistics.measures import (
    modal_in_topk,
    modal_share,
    recalled_slots,
    set_recall,
    slot_overlap_chance,
    token_table,
)

DEFINITIONS: dict[str, Callable[[ExpertCounts, int], Floats]] = {
    "modal_share": lambda counts, top_k: modal_share(counts.first, counts.n),
    "modal_in_topk": lambda counts, top_k: modal_in_topk(counts.chosen, counts.n),
    "set_recall": lambda counts, top_k: set_recall(counts.chosen, top_k),
}
"""What earlier work calls routing consistency, by name."""

LOAD_NULL = "experts drawn from the layer's load, whatever the token"
LABELS_NULL = "table entries shuffled over these types"


@dataclass(frozen=True)
class _Draws:
    """A statistic, what resampling makes of it, and what it is under the null; all three average over layers."""

    statistic: float
    resampled: Floats
    null: Floats


def h3_results(data: RunData, config: HypothesesConfig) -> Iterator[Result]:
    """Measure how consistently the most frequent token types are routed.

    As stated: the mean over the most frequent types of one definition of consistency is above a threshold; the two
    other definitions follow, for the verdict may change with the definition. All three are optimistic, as a type's
    favourite experts are found on the counts that they are scored on. Corrected: the recall of the same types'
    own k most used experts on held-out text.

    Yields
    ------
    Result
        Rows of each layer, then averaged over layers. Verdicts are still to be given.
    """
    reason = data.recorded.missing("token_ids")
    if reason:
        yield from (_untested(name, reason, config) for name in DEFINITIONS)
        yield _untested_recall("on held-out text", reason, config)
        return
    yield from _consistency_results(data, config)
    reason = data.recorded.missing("heldout")
    if reason:
        yield from domain_recall_results(data, config)
        yield _untested_recall("on held-out text", reason, config)
    else:
        yield from _recall_results(data, config)


def _consistency_results(data: RunData, config: HypothesesConfig) -> Iterator[Result]:
    gathered: dict[str, list[_Draws]] = {}
    for layer in data.layers:
        counts = data.expert_counts(layer)
        top = most_frequent(counts.n, config.h3.most_frequent)
        for name, draws in _consistency(data, layer, counts, top, config):
            gathered.setdefault(name, []).append(draws)
            yield _consistency_row(name, draws, layer.layer, len(top), config)
    for name in DEFINITIONS:
        if name in gathered:
            yield _consistency_row(name, _mean(gathered[name]), None, len(top), config)
        else:
            yield _untested(name, data.recorded.missing("weights") or "", config)


def _recall_results(data: RunData, config: HypothesesConfig) -> Iterator[Result]:
    documents = halve(data.heldout_documents, data.heldout_groups, config.seed)
    random = generator(config.seed, "H3", "documents")
    weights = bootstrap_weights(documents.clusters, config.bootstrap, random)
    recalls: list[tuple[_Draws, int, str]] = []
    for layer in data.layers:
        counts = data.expert_counts(layer)
        top = most_frequent(counts.n, config.h3.most_frequent)
        recalls.append(_heldout_recall(data, layer, counts, top, documents, weights, config))
        yield _recall_row(*recalls[-1], documents.clusters, layer.layer, config)
    pooled = _mean([draws for draws, _, _ in recalls])
    yield _recall_row(pooled, recalls[0][1], "mean over layers", documents.clusters, None, config)


def _mean(parts: list[_Draws]) -> _Draws:
    """Average over layers."""
    return _Draws(
        float(np.mean([part.statistic for part in parts])),
        np.mean([part.resampled for part in parts], axis=0),
        np.mean([part.null for part in parts], axis=0),
    )


def _consistency(
    data: RunData, layer: Layer, counts: ExpertCounts, top: Ints, config: HypothesesConfig
) -> Iterator[tuple[str, _Draws]]:
    """Each definition on the capture counts, without each shard, and with routing by load alone."""
    definitions = {name: each for name, each in DEFINITIONS.items() if data.recorded.weights or name != "modal_share"}
    random = generator(config.seed, "H3", "load", layer.layer)
    null: dict[str, list[float]] = {name: [] for name in definitions}
    for drawn in load_only_counts(counts, config.null_draws, random, top):
        for name, definition in definitions.items():
            null[name].append(float(definition(drawn, layer.top_k).mean()))
    left_out: dict[str, list[float]] = {name: [] for name in definitions}
    for part in data.left_out_counts(layer, counts):
        frequent = most_frequent(part.n, config.h3.most_frequent)
        for name, definition in definitions.items():
            left_out[name].append(float(definition(part, layer.top_k)[frequent].mean()))
    for name, definition in definitions.items():
        statistic = float(definition(counts, layer.top_k)[top].mean())
        yield name, _Draws(statistic, np.array(left_out[name]), np.array(null[name]))


def _consistency_row(name: str, draws: _Draws, layer: int | None, types: int, config: HypothesesConfig) -> Result:
    stated = name == config.h3.stated_measure
    interval = jackknife_interval(draws.statistic, draws.resampled, config.confidence, "logit")
    notes = [] if stated else ["another definition of consistency than the one stated"]
    if types < config.h3.most_frequent:
        notes.append(f"only {types} token types occur")
    if interval is None:
        notes.append("no counts of two shards or more, so there is no interval")
    return Result(
        hypothesis="H3",
        form="as stated" if stated else "detail",
        variant="as stated" if stated else "other definition",
        layer=layer,
        measure=f"mean {name}",
        statistic=finite(draws.statistic),
        **interval_columns(interval, config.confidence, f"jackknife over {len(draws.resampled)} shards, logit"),
        p=monte_carlo_p(draws.statistic, draws.null, "above"),
        **null_columns(LOAD_NULL, draws.null),
        n=types,
        n_unit="token types",
        threshold=config.h3.consistency_above,
        direction="above",
        note="; ".join(notes),
    )


def _untested(name: str, reason: str, config: HypothesesConfig) -> Result:
    stated = name == config.h3.stated_measure
    return not_tested(
        "H3",
        "as stated" if stated else "detail",
        "as stated" if stated else "other definition",
        f"mean {name}",
        reason,
        threshold=config.h3.consistency_above,
        direction="above",
    )


def _untested_recall(variant: str, reason: str, config: HypothesesConfig) -> Result:
    above = config.h3.consistency_above
    return not_tested("H3", "corrected", variant, "mean recall_at_k", reason, threshold=above, direction="above")


def _heldout_recall(
    data: RunData,
    layer: Layer,
    counts: ExpertCounts,
    top: Ints,
    documents: Halving,
    weights: Floats,
    config: HypothesesConfig,
) -> tuple[_Draws, int, str]:
    """Held-out recall of the most frequent types: mean over types, and how many of them occur there."""
    heldout = data.heldout(layer)
    row = np.full(data.types, -1, dtype=np.int64)
    row[top] = np.arange(len(top))
    wanted = row[heldout.type_index] >= 0
    cell = documents.cluster[documents.place(heldout.document[wanted])] * len(top)
    cell += row[heldout.type_index[wanted]]
    size = documents.clusters * len(top)
    n = weighted_sums(cell, np.ones(len(cell)), size).reshape(-1, len(top))

    def mean_recall(score: Floats) -> Floats:
        recalled = weighted_sums(cell, score[wanted], size).reshape(-1, len(top))
        return _mean_ratio(np.vstack([recalled.sum(axis=0), weights @ recalled]), resampled_n)

    resampled_n = np.vstack([n.sum(axis=0), weights @ n])
    table = fit_table(counts, layer.top_k, config.table_minimum_count)
    recall = mean_recall(scores(heldout, table, layer.top_k)["recall_at_k"])
    blind = mean_recall(scores(heldout, fit_global(counts, layer.top_k), layer.top_k)["recall_at_k"])
    random = generator(config.seed, "H3", "labels", layer.layer)
    draws = _Draws(float(recall[0]), recall[1:], _shuffled_recall(data, layer, counts, top, random, config))
    chance = slot_overlap_chance(layer.experts, layer.top_k)
    return draws, int((n.sum(axis=0) > 0).sum()), f"global table {blind[0]:.3f}, chance {chance:.3f}"


def _mean_ratio(parts: Floats, wholes: Floats) -> Floats:
    """Mean over types of parts / wholes in each resample, over the types that are in it; shape (1 + B,)."""
    ratios = np.divide(parts, wholes, out=np.zeros(parts.shape), where=wholes > 0)
    present = (wholes > 0).sum(axis=1)
    return np.divide(ratios.sum(axis=1), present, out=np.full(len(parts), np.nan), where=present > 0)


def _shuffled_recall(
    data: RunData,
    layer: Layer,
    counts: ExpertCounts,
    top: Ints,
    random: np.random.Generator,
    config: HypothesesConfig,
) -> Floats:
    """The same recall when the types have each other's table entries; shape (permutations,)."""
    chosen = data.expert_counts(layer, split="heldout").chosen[top]
    slots = chosen.sum(axis=1)
    table = token_table(counts.chosen, counts.n, layer.top_k, config.table_minimum_count)[top]
    present = slots > 0
    if not present.any():
        return np.full(config.permutations, np.nan)
    return np.array(
        [
            (recalled_slots(random.permutation(table), chosen)[present] / slots[present]).mean()
            for _ in range(config.permutations)
        ]
    )


def _recall_row(
    draws: _Draws, types: int, note: str, clusters: int, layer: int | None, config: HypothesesConfig
) -> Result:
    interval = percentile_interval(draws.resampled, clusters, config.confidence)
    return Result(
        hypothesis="H3",
        form="corrected",
        variant="on held-out text",
        layer=layer,
        measure="mean recall_at_k",
        statistic=finite(draws.statistic),
        **interval_columns(interval, config.confidence, "bootstrap over groups of documents"),
        p=monte_carlo_p(draws.statistic, draws.null, "above"),
        p_below=config.false_discovery_rate,
        **null_columns(LABELS_NULL, draws.null),
        n=types,
        n_unit="token types",
        threshold=config.h3.consistency_above,
        direction="above",
        note=note,
    )
