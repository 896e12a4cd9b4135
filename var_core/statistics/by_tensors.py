"""Counting by tensor operations: a fixed number of them for a block of layers, whatever the number of tokens.

This is what runs on a GPU, and what says what is counted; :mod:`var_core.statistics.by_loops` does the same on a CPU.
"""

import dataclasses
from collections.abc import Iterator

import torch

from var_core.routing.batch import RoutedBatch, RouterLayout
from var_core.statistics.layer_state import LayerState
from var_core.statistics.quantities import (
    Quantities,
    RouterProbabilities,
    decision_quantities,
    first_choice,
    multi_hot,
    router_probabilities,
)
from var_core.statistics.token_state import TokenState

_BLOCK_CELLS = 1 << 21
"""Cells (layer, token, expert) that are laid out at a time: 8 MiB in float32."""


def count_by_tensors(
    batch: RoutedBatch,
    layout: RouterLayout,
    rows: torch.Tensor,
    continues: torch.Tensor,
    order: torch.Tensor,
    by_token: TokenState,
    by_layer: LayerState,
) -> Quantities | None:
    """Count a batch.

    Parameters
    ----------
    batch : RoutedBatch
        Decisions of T tokens at L layers.
    layout : RouterLayout
        L layers, at most E experts.
    rows : torch.Tensor
        Rows of the tokens in `by_token`, int64 [T].
    continues : torch.Tensor
        Whether the next token is in the same document and sequence, bool [T].
    order : torch.Tensor
        The within-sequence shuffle: for each place in a sequence, the place that stands there, int64 [length].
    by_token : TokenState
    by_layer : LayerState

    Returns
    -------
    Quantities or None
        Of the decisions; None without logits.
    """
    masks, firsts, parts = [], [], []
    last: torch.Tensor | None = None
    for layers in _blocks(layout, len(rows)):
        experts = batch.experts[layers].transpose(1, 2).contiguous()
        probabilities, finite, kept = _kept(batch, layout, layers)
        hot = multi_hot(experts, layout.experts, kept)
        weights = first = None
        if batch.weights is not None:
            weights = batch.weights[layers].transpose(1, 2).contiguous()
            first = first_choice(experts, weights, layout.experts)
            firsts.append(first)
        paired = continues[:-1] & kept[:, :-1] & kept[:, 1:]
        by_token.add_experts(layers.start, rows, experts, weights, first, kept)
        by_layer.add_decisions(layers.start, finite, kept)
        by_layer.add_pairs_of_experts(layers.start, hot, last)
        by_layer.add_repeats(layers.start, hot, first, paired)
        masks.append(kept)
        if probabilities is not None:
            parts.append(decision_quantities(probabilities, experts, hot))
        last = hot[-1:]
    kept = _joined(masks)
    quantities = Quantities.joined(parts) if parts else None
    by_token.add_moments(rows, None if quantities is None else quantities.stacked(), kept)
    if firsts and len(layout) > 1:
        # What does not count holds E, in the layer before and in the layer after.
        counted = torch.where(kept, _joined(firsts), layout.experts)
        after = counted[1:]
        shuffled = after.view(len(after), -1, len(order)).index_select(2, order).view(after.shape)
        by_layer.add_next_first(counted[:-1], {"next_first": after, "next_first_shuffled": shuffled})
    return quantities


def _kept(
    batch: RoutedBatch, layout: RouterLayout, layers: slice
) -> tuple[RouterProbabilities | None, torch.Tensor, torch.Tensor]:
    """Probabilities of some layers, which of their decisions are finite, and which of these count."""
    # Empty slots come last, so the first one says whether the token went anywhere.
    routed = batch.experts[layers, :, 0] < layout.experts
    finite = torch.ones_like(routed)
    if batch.weights is not None:
        finite &= torch.isfinite(batch.weights[layers]).all(dim=-1)
    probabilities = None
    if batch.logits is not None:
        logits = batch.logits[layers].transpose(1, 2).contiguous()
        probabilities = router_probabilities(logits, RouterLayout(layout.layers[layers]))
        probabilities = dataclasses.replace(probabilities, finite=finite & probabilities.finite)
        finite = probabilities.finite
    return probabilities, finite, finite & routed


def _blocks(layout: RouterLayout, tokens: int) -> Iterator[slice]:
    """Adjacent layers that are laid out at a time."""
    layers = max(1, _BLOCK_CELLS // (tokens * layout.experts))
    for start in range(0, len(layout), layers):
        yield slice(start, min(start + layers, len(layout)))


def _joined(parts: list[torch.Tensor]) -> torch.Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)
