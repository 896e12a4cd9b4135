"""The same statistics in plain Python: dictionaries, and one decision after another."""

import math
from collections.abc import Sequence
from itertools import pairwise

import pyarrow as pa
import torch

from var_core.benchmarks.alternatives import Tables
from var_core.benchmarks.decisions import Decisions
from var_core.statistics.tables import EXPERT_COUNTS, EXPERT_MATRIX_COLUMNS, LAYER_COUNT_COLUMNS, TOKEN_STATS

_REPEATS = ("pairs", "first_repeats", "any_repeats", "slot_overlaps")


def by_python(batches: Sequence[Decisions]) -> Tables:
    """All statistics of the accumulator; logits are taken to be finite, as the synthetic ones are."""
    tables = moments_by_python(batches)
    rows: list[dict[str, object]] = []
    for index, batch in enumerate(batches):
        _count_layers(rows, batch, _shuffled(batch, index))
    tables["layer_stats"] = pa.Table.from_pylist(rows)
    return tables


def moments_by_python(batches: Sequence[Decisions]) -> Tables:
    """Only what is kept by token id: Welford's update of the moments, and the experts chosen."""
    moments: dict[tuple[int, int], list[float]] = {}
    counts: dict[tuple[int, int, int], list[float]] = {}
    for batch in batches:
        assert batch.routed.logits is not None and batch.routed.weights is not None
        ids = batch.token_ids.tolist()
        parts = (batch.routed.logits.tolist(), batch.routed.experts.tolist(), batch.routed.weights.tolist())
        for layer, rows in enumerate(zip(*parts, strict=True)):
            for token, logits, experts, weights in zip(ids, *rows, strict=True):
                _welford(moments.setdefault((layer, token), [0, *[0.0] * 6]), _quantities(logits, experts))
                first = experts[weights.index(max(weights))]
                for expert, weight in zip(experts, weights, strict=True):
                    cell = counts.setdefault((layer, token, expert), [0, 0, 0.0])
                    cell[0] += 1
                    cell[1] += expert == first
                    cell[2] += weight
    return {
        "token_stats": _table([(*key, *cell) for key, cell in moments.items()], TOKEN_STATS),
        "expert_counts": _table([(*key, *cell) for key, cell in counts.items()], EXPERT_COUNTS),
    }


def _quantities(logits: list[float], experts: list[int]) -> tuple[float, float, float]:
    largest = max(logits)
    exponentials = [math.exp(logit - largest) for logit in logits]
    total = sum(exponentials)
    probabilities = [value / total for value in exponentials]
    entropy = -sum(p * math.log(p) for p in probabilities if p > 0)
    chosen = set(experts)
    others = max((p for expert, p in enumerate(probabilities) if expert not in chosen), default=0.0)
    return entropy, max(probabilities), min(probabilities[expert] for expert in experts) - others


def _welford(cell: list[float], values: Sequence[float]) -> None:
    cell[0] += 1
    for place, value in enumerate(values):
        delta = value - cell[1 + 2 * place]
        cell[1 + 2 * place] += delta / cell[0]
        cell[2 + 2 * place] += delta * (value - cell[1 + 2 * place])


def _shuffled(batch: Decisions, index: int) -> list[int]:
    """For every token, the token whose choice the next layer is shuffled to, as the accumulator draws it."""
    length = len(batch.token_ids) // batch.tokens.sequences
    order = torch.randperm(length, generator=torch.Generator().manual_seed(index)).tolist()
    return [begin + place for begin in range(0, len(batch.token_ids), length) for place in order]


def _count_layers(rows: list[dict[str, object]], batch: Decisions, partner: list[int]) -> None:
    """Add a batch to what is kept by layer."""
    assert batch.routed.logits is not None and batch.routed.weights is not None
    layers, width = len(batch.routed.logits), batch.routed.logits.shape[-1]
    continues = batch.tokens.continues.tolist()
    experts_of, weights_of = batch.routed.experts.tolist(), batch.routed.weights.tolist()
    first_of = [
        [experts[weights.index(max(weights))] for experts, weights in zip(*rows_of, strict=True)]
        for rows_of in zip(experts_of, weights_of, strict=True)
    ]
    for layer in range(layers):
        if layer == len(rows):
            last = layer == layers - 1
            rows.append({"layer": layer, **dict.fromkeys(LAYER_COUNT_COLUMNS, 0)})
            rows[layer] |= {"chosen": [0] * width, "first": [0] * width, "weight_sum": [0.0] * width}
            for name in EXPERT_MATRIX_COLUMNS:
                rows[layer][name] = None if last and name.startswith("next_") else [0] * width**2
        _count_choices(rows[layer], experts_of[layer], weights_of[layer], first_of[layer], width)
        _count_repeats(rows[layer], experts_of[layer], first_of[layer], continues)
        if layer + 1 < layers:
            _count_next(rows[layer], experts_of[layer : layer + 2], first_of[layer : layer + 2], partner, width)


def _count_choices(row: dict, experts_of: list, weights_of: list, first_of: list[int], width: int) -> None:
    row["tokens"] += len(experts_of)
    chosen, firsts, weight_sum, coactivation = (row[name] for name in ("chosen", "first", "weight_sum", "coactivation"))
    for experts, weights, first in zip(experts_of, weights_of, first_of, strict=True):
        firsts[first] += 1
        for expert, weight in zip(experts, weights, strict=True):
            chosen[expert] += 1
            weight_sum[expert] += weight
            for other in experts:
                coactivation[expert * width + other] += 1


def _count_repeats(row: dict, experts_of: list, first_of: list[int], continues: list[bool]) -> None:
    both = zip(pairwise(experts_of), pairwise(first_of), continues, strict=False)
    for (experts, after), (first, first_after), paired in both:
        if paired:
            overlap = len(set(experts).intersection(after))
            for name, more in zip(_REPEATS, (1, first == first_after, overlap > 0, overlap), strict=True):
                row[name] += more


def _count_next(row: dict, experts_of: list, first_of: list, partner: list[int], width: int) -> None:
    chosen, firsts, shuffled = (row[name] for name in ("next_chosen", "next_first", "next_first_shuffled"))
    for experts, after in zip(*experts_of, strict=True):
        for expert in experts:
            for other in after:
                chosen[expert * width + other] += 1
    for token, (first, after) in enumerate(zip(*first_of, strict=True)):
        firsts[first * width + after] += 1
        shuffled[first * width + first_of[1][partner[token]]] += 1


def _table(rows: list[tuple[float, ...]], schema: pa.Schema) -> pa.Table:
    fields = list(schema)[1:]
    columns = list(zip(*rows, strict=True))
    return pa.table({field.name: pa.array(column, field.type) for field, column in zip(fields, columns, strict=True)})
