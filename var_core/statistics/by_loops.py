"""Counting on a CPU: the same as :mod:`var_core.statistics.by_tensors`, in one pass over the decisions."""

import functools
import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import numpy as np
import torch

from var_core.errors import VarError
from var_core.routing.batch import RoutedBatch, RouterLayout
from var_core.statistics.counting_loops import count_layers, count_sequences, count_tokens
from var_core.statistics.layer_state import LayerState
from var_core.statistics.quantities import Quantities, finite_logits, log_scores
from var_core.statistics.quantity_loops import all_within, choose, decision_values
from var_core.statistics.tables import QUANTITIES
from var_core.statistics.token_state import TokenState

_WORTH_THREADS = 1 << 19
"""Cells (layer, token, expert) from which on waking other threads costs less than it saves."""


def count_by_loops(
    batch: RoutedBatch,
    layout: RouterLayout,
    rows: torch.Tensor,
    continues: torch.Tensor,
    order: torch.Tensor,
    by_token: TokenState,
    by_layer: LayerState,
) -> Quantities | None:
    """Count a batch; parameters and result as :func:`var_core.statistics.by_tensors.count_by_tensors`.

    The layers of a large batch are shared out among as many threads as torch uses. No two of them touch the same cells,
    and within a layer the order is that of the tokens, so the result does not depend on their number.
    """
    width = layout.experts
    experts = batch.experts.contiguous().numpy()
    layers, tokens, slots = experts.shape
    _check_range(experts, width)
    kept = np.empty((layers, tokens), np.bool_)
    finite = np.ones((layers, tokens), np.bool_)
    values = np.empty((0, layers, tokens))
    weights, first = np.empty((layers, 0, slots), np.float32), np.empty((layers, 0), np.int64)
    if batch.logits is not None:
        finite, values = finite_logits(batch.logits, layout).numpy(), np.empty((len(QUANTITIES), layers, tokens))
        scores = log_scores(batch.logits.float(), layout).contiguous().numpy()
        own = np.array([layer.experts for layer in layout.layers])
    if batch.weights is not None:
        weights, first = batch.weights.float().contiguous().numpy(), np.empty((layers, tokens), np.int64)
    row_of, follows, place = rows.numpy(), continues.numpy(), order.numpy()
    of_token, (counts, *matrices) = by_token.arrays, by_layer.arrays

    def decide(begin: int, end: int) -> None:
        if batch.logits is not None:
            decision_values(begin, end, scores, experts, own, finite, values)
        choose(begin, end, experts, weights, width, finite, kept, first)

    def count(begin: int, end: int) -> None:
        count_tokens(begin, end, row_of, kept, values, experts, weights, first, *of_token, width)
        count_layers(begin, end, experts, width, finite, kept, counts[:3], *matrices[:2])
        count_sequences(begin, end, experts, first, width, kept, follows, place, counts[3:], *matrices[2:])

    # In two steps: what is counted at a layer depends on the decisions of the next.
    threads = torch.get_num_threads() if layers * tokens * width >= _WORTH_THREADS else 1
    _for_all_layers(decide, layers, threads)
    _for_all_layers(count, layers, threads)
    if batch.logits is None:
        return None
    return Quantities(*(torch.from_numpy(each) for each in (*values, finite)))


def _check_range(experts: np.ndarray, width: int) -> None:
    """The loops do not look where they write."""
    if not all_within(experts, width):
        layer = int(np.argmax((experts < 0).any(axis=(1, 2)) | (experts > width).any(axis=(1, 2))))
        raise VarError(
            f"MoE layer {layer} chose an expert outside 0 to {width - 1}; its experts are not numbered as its router's "
            "logits are, so this model is not supported"
        )


def _for_all_layers(work: Callable[[int, int], Any], layers: int, threads: int) -> None:
    """Call `work` on ranges of layers, one in this thread and the others in threads beside it."""
    threads = min(threads, layers)
    borders = [layers * part // threads for part in range(threads + 1)]
    own, *others = itertools.pairwise(borders)
    waiting = [_pool(threads).submit(work, *layer_range) for layer_range in others]
    try:
        work(*own)
    finally:
        # Also when this thread fails: nothing may go on counting once the caller takes the state back.
        wait(waiting)
    for each in waiting:
        each.result()


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads - 1, "statistics")
