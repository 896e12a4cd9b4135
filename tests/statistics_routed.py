"""Random decisions of known shape, and the statistics of them computed by the book."""

import itertools
from collections import defaultdict

import numpy as np
import pyarrow as pa
import torch

from var_core.routing.batch import RoutedBatch, RouterLayout
from var_core.statistics.quantities import decision_quantities, multi_hot, router_probabilities
from var_core.statistics.tables import SCHEMAS


def random_decisions(seed, sequences=3, length=10, layers=3, experts=6, k=2, vocabulary=20, dtype=torch.float32):
    """Decisions with top-k selection and renormalised weights; documents change within sequences."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(vocabulary, (sequences, length), generator=generator)
    document = (torch.rand((sequences, length), generator=generator) < 0.15).long().cumsum(1)
    logits = (2 * torch.randn((layers, sequences * length, experts), generator=generator)).to(dtype)
    weights, chosen = torch.softmax(logits.float(), -1).topk(k)
    return tokens, document, RoutedBatch(logits, chosen, weights / weights.sum(-1, keepdim=True))


def by_the_book(tokens, document, batch):
    """Every statistic by a loop over decisions in float64, straight from its definition."""
    L, T, E = batch.logits.shape
    p = torch.softmax(batch.logits.double(), -1).numpy()
    token, experts, weights = tokens.flatten().tolist(), batch.experts.tolist(), batch.weights.double().numpy()
    values, chosen, first, weight_sum = defaultdict(list), defaultdict(int), defaultdict(int), defaultdict(float)
    coactivation = np.zeros((L, E, E), int)
    next_chosen, next_first = np.zeros((L, E, E), int), np.zeros((L, E, E), int)
    repeats = np.zeros((L, 4), int)
    tops = [[experts[layer][t][int(np.argmax(weights[layer, t]))] for t in range(T)] for layer in range(L)]
    length = tokens.shape[1]
    for layer, t in itertools.product(range(L), range(T)):
        mine, row = experts[layer][t], p[layer, t]
        others = np.delete(row, mine)
        values[layer, token[t]].append(
            (-(row * np.log(row)).sum(), row.max(), row[mine].min() - (others.max() if len(others) else 0))
        )
        for slot, expert in enumerate(mine):
            chosen[layer, token[t], expert] += 1
            weight_sum[layer, token[t], expert] += weights[layer, t, slot]
        first[layer, token[t], tops[layer][t]] += 1
        for i, j in itertools.product(mine, mine):
            coactivation[layer, i, j] += 1
        if layer + 1 < L:
            next_first[layer, tops[layer][t], tops[layer + 1][t]] += 1
            for i, j in itertools.product(mine, experts[layer + 1][t]):
                next_chosen[layer, i, j] += 1
        if (t + 1) % length and document.flatten()[t] == document.flatten()[t + 1]:
            common = len(set(mine) & set(experts[layer][t + 1]))
            repeats[layer] += (1, tops[layer][t] == tops[layer][t + 1], common > 0, common)
    return values, chosen, first, weight_sum, coactivation, next_chosen, next_first, repeats


def quantities_of(batch, layout=None):
    """What :meth:`Accumulator.update` returns for a batch."""
    layers, _, experts = batch.logits.shape
    layout = layout or RouterLayout.uniform(layers, experts, batch.experts.shape[-1])
    probabilities = router_probabilities(batch.logits.transpose(1, 2), layout)
    chosen = batch.experts.transpose(1, 2)
    return decision_quantities(probabilities, chosen, multi_hot(chosen, experts, probabilities.finite))


def assert_equal_within_rounding(kind, left, right, schema=None):
    """Equal tables, floats within 1e-12 relative."""
    assert left.schema == right.schema == (schema or SCHEMAS[kind])
    assert left.num_rows == right.num_rows
    for column in left.column_names:
        a, b = left[column].combine_chunks(), right[column].combine_chunks()
        if column in ("next_first_shuffled",):  # drawn anew for every batch number
            continue
        if pa.types.is_list(a.type):
            a, b = a.flatten(), b.flatten()
        if pa.types.is_floating(a.type):
            np.testing.assert_allclose(*(x.to_numpy(zero_copy_only=False) for x in (a, b)), rtol=1e-12, atol=1e-12)
        else:
            assert a.equals(b), column
