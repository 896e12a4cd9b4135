"""How far from the memory's bandwidth: bytes that must move at least, and how fast this machine copies."""

from collections.abc import Sequence

import torch

from var_core.benchmarks.decisions import Decisions

_COPIED_BYTES = 256 << 20
_BYTES_PER_TOKEN_ROW = 8 * 7
"""n, and mean and m2 of three quantities."""
_BYTES_PER_EXPERT_CELL = 4 + 4 + 8
"""Times chosen, times first, sum of weights."""


class Copy:
    """A copy of 256 MB from one tensor to another: each byte is read once and written once, as in STREAM."""

    moved_bytes = 2 * _COPIED_BYTES

    def __init__(self, device: torch.device) -> None:
        self._source = torch.ones(_COPIED_BYTES // 4, dtype=torch.float32, device=device)
        self._target = torch.zeros_like(self._source)

    def __call__(self, round_: int) -> None:
        """Copy once."""
        self._target.copy_(self._source)


def least_bytes(batches: Sequence[Decisions], experts: int) -> int:
    """Bytes that any way to per-token moments and expert counts must move, whatever its code.

    Every input is read once; of the state, each row and each cell that a batch touches is read once and written once.
    Nothing is counted for intermediate results.

    Parameters
    ----------
    batches : sequence of Decisions
        What is accumulated.
    experts : int
        E.
    """
    total = 0
    for batch in batches:
        assert batch.routed.logits is not None and batch.routed.weights is not None
        inputs = (batch.routed.logits, batch.routed.experts, batch.routed.weights, batch.token_ids)
        total += sum(tensor.nbytes for tensor in inputs)
        layers = batch.routed.experts.shape[0]
        rows = layers * len(torch.unique(batch.token_ids))
        cell = batch.token_ids[:, None] * experts + batch.routed.experts
        cells = sum(len(torch.unique(layer)) for layer in cell)
        total += 2 * (rows * _BYTES_PER_TOKEN_ROW + cells * _BYTES_PER_EXPERT_CELL)
    return total
