"""Counting on a CPU: the same as :mod:`var_core.statistics.by_tensors`, in one pass over the decisions."""

import numpy as np
import torch

from var_core.routing.batch import RoutedBatch, RouterLayout
from var_core.statistics.compiled import (
    count_layers,
    count_sequences,
    count_tokens,
    decision_values,
    first_choices,
)
from var_core.statistics.layer_state import LayerState
from var_core.statistics.quantities import Quantities, finite_logits, log_scores
from var_core.statistics.token_state import TokenState


def count_by_loops(
    batch: RoutedBatch,
    layout: RouterLayout,
    rows: torch.Tensor,
    continues: torch.Tensor,
    order: torch.Tensor,
    by_token: TokenState,
    by_layer: LayerState,
) -> Quantities | None:
    """Count a batch; parameters and result as :func:`var_core.statistics.by_tensors.count_by_tensors`."""
    width = layout.experts
    experts = batch.experts.contiguous().numpy()
    layers, tokens, slots = experts.shape
    finite, values = _decide(batch, layout)
    kept = finite & (experts[..., 0] < width)
    weights, first = np.empty((layers, 0, slots), np.float32), np.empty((layers, 0), np.int64)
    if batch.weights is not None:
        weights, first = batch.weights.float().contiguous().numpy(), np.empty((layers, tokens), np.int64)
        first_choices(experts, weights, kept, width, first)
    row_of, follows = rows.numpy(), continues.numpy()
    count_tokens(
        row_of, by_token.starts, by_token.cells, width, kept, values, experts, weights, first, *by_token.arrays()
    )
    counts, coactivation, next_chosen, next_first, next_first_shuffled = by_layer.arrays()
    count_layers(experts, width, finite, kept, counts[:3], coactivation, next_chosen)
    count_sequences(experts, first, width, kept, follows, order.numpy(), counts[3:], next_first, next_first_shuffled)
    if batch.logits is None:
        return None
    return Quantities(*(torch.from_numpy(each) for each in (*values, finite)))


def _decide(batch: RoutedBatch, layout: RouterLayout) -> tuple[np.ndarray, np.ndarray]:
    """Which decisions are finite, bool [L, T], and their quantities, [Q, L, T]; Q = 0 without logits."""
    layers, tokens = batch.experts.shape[:2]
    if batch.logits is None:
        return np.ones((layers, tokens), np.bool_), np.empty((0, layers, tokens))
    finite = finite_logits(batch.logits, layout).numpy()
    scores = log_scores(batch.logits.float(), layout)
    p = torch.softmax(scores, dim=-1)
    values = np.empty((3, layers, tokens))
    own = np.array([layer.experts for layer in layout.layers])
    experts = batch.experts.contiguous().numpy()
    decision_values(scores.contiguous().numpy(), p.numpy(), experts, own, finite, *values)
    return finite, values
