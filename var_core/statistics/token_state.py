"""The part of the statistics that is kept for every token id: moments, and how often each expert was chosen."""

import functools
import itertools
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import torch

from var_core.errors import VarError
from var_core.routing.batch import RouterLayout
from var_core.statistics.counting_loops import read_cells
from var_core.statistics.tables import EXPERT_COUNTS, QUANTITIES, TOKEN_STATS, statistics_table

_MOMENTS = 1 + 2 * len(QUANTITIES)
"""Words of a cell that hold n, and mean and m2 of every quantity."""
_LINE = 8
"""Words of a processor's cache line: what is used together begins where a line begins."""
_NO_ROW = -1


class TokenState:
    """Counts and moments by token id and layer, in rows that fit a limit of memory.

    Every token id has a row when all fit into the limit. Otherwise rows are given to token ids as they come, and
    when they run out the tables have to be put on disk and the state reset: partial sums merge exactly.

    Parameters
    ----------
    layout : RouterLayout
        L layers.
    vocabulary : int
        V; 0 where token ids are not recorded.
    device : torch.device
        Where the state lives.
    max_bytes : int or None
        Limit of the state's memory; None: none.

    Notes
    -----
    All that is known of one token id at one layer lies side by side, in a cell of 8-byte words, because it is used
    together and token ids come in no order: n, means and m2; the sums of weights by expert, [E]; and as 4-byte whole
    numbers how often each expert was chosen, [E], and chosen first, [E].
    """

    def __init__(self, layout: RouterLayout, vocabulary: int, device: torch.device, max_bytes: int | None) -> None:
        self._layout, self._device = layout, device
        self._experts, self._words = layout.experts, _cell_words(layout)
        dense = max_bytes is None or vocabulary * row_bytes(layout) <= max_bytes
        self.rows = vocabulary if max_bytes is None or dense else max_bytes // row_bytes(layout)
        self._row_of = None if dense else torch.full((vocabulary,), _NO_ROW, dtype=torch.int32, device=device)
        self._token_of = torch.zeros(0 if dense else self.rows, dtype=torch.int32, device=device)
        self._used = self.rows if dense else 0
        # One word more than there are: what does not count is added there.
        self._memory = torch.zeros(self.rows * len(layout) * self._words + 1, dtype=torch.float64, device=device)
        self._cells = self._memory[:-1].view(self.rows, len(layout), self._words)

    def new_tokens(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Token ids that have no row yet, each once."""
        if self._row_of is None:
            return token_ids[:0]
        present = torch.unique(token_ids)
        return present[self._row_of[present] == _NO_ROW]

    def has_room(self, token_ids: torch.Tensor) -> bool:
        """Whether all these token ids have, or can be given, a row."""
        return self._row_of is None or self._used + len(self.new_tokens(token_ids)) <= self.rows

    def rows_of(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Rows of token ids, int64 of the same shape, given anew where needed.

        Raises
        ------
        VarError
            If rows run out.
        """
        if self._row_of is None:
            return token_ids
        new = self.new_tokens(token_ids)
        if self._used + len(new) > self.rows:
            needed = -(-(self._used + len(new)) * row_bytes(self._layout) // 1_000_000)
            raise VarError(
                f"capture.max_state_mb: statistics of {self.rows} token ids of this model fit into the limit, a batch "
                f"has {self._used + len(new)}; raise it to at least {needed}, or lower "
                "capture.batch_sequences"
            )
        given = torch.arange(self._used, self._used + len(new), dtype=torch.int32, device=self._device)
        self._row_of[new] = given
        self._token_of[self._used : self._used + len(new)] = new.int()
        self._used += len(new)
        return self._row_of[token_ids].long()

    @functools.cached_property
    def arrays(self) -> tuple[np.ndarray, np.ndarray, int]:
        """The state of a CPU as numpy arrays that share its memory.

        Returns
        -------
        tuple
            The cells, [rows, L, words]; the same memory as 4-byte whole numbers, [rows, L, 2 * words]; and the word
            at which the sums of weights begin.
        """
        cells = self._cells.numpy()
        return cells, cells.view(np.int32), _MOMENTS

    def add_moments(self, rows: torch.Tensor, values: torch.Tensor | None, kept: torch.Tensor) -> None:
        """Count decisions, and merge the moments of a batch into the state.

        The batch's moments are taken in two passes, so that nothing cancels, and merged by the formula of Chan,
        Golub and LeVeque (1979).

        Parameters
        ----------
        rows : torch.Tensor
            Rows of the tokens, int64 [T].
        values : torch.Tensor or None
            The quantities, float64 [Q, L, T]; None where logits were not recorded.
        kept : torch.Tensor
            Which decisions count, bool [L, T].
        """
        present, inverse = torch.unique(rows, return_inverse=True)
        types, layers, Q = len(present), len(self._layout), len(QUANTITIES)
        cells = layers * types
        cell = inverse + torch.arange(0, cells, types, device=self._device)[:, None]
        counted = torch.zeros(cells, dtype=torch.float64, device=self._device)
        n = counted.scatter_add_(0, cell.flatten(), kept.double().flatten()).view(layers, types)
        moments = self._cells[..., :_MOMENTS]
        if values is None:
            moments[..., 0].index_add_(0, present, n.T)
            return
        each = cell + torch.arange(0, Q * cells, cells, device=self._device)[:, None, None]
        sums = _summed(torch.where(kept, values, 0.0), each, Q * cells).view(Q, layers, types)
        mean = sums / n.clamp_min(1.0)
        deviation = values - mean.flatten().index_select(0, each.flatten()).view_as(values)
        m2 = _summed(torch.where(kept, deviation.square_(), 0.0), each, Q * cells).view(Q, layers, types)
        state = moments.index_select(0, present).permute(2, 1, 0).contiguous()
        before, old_mean, old_m2 = state[0], state[1 : Q + 1], state[Q + 1 :]
        share = n / (before + n).clamp_min(1.0)
        delta = mean.sub_(old_mean).mul_(n > 0)
        old_m2 += m2.add_(delta.square() * (before * share))
        old_mean += delta.mul_(share)
        before += n
        moments.index_copy_(0, present, state.permute(2, 1, 0).contiguous())

    def add_experts(
        self,
        layer: int,
        rows: torch.Tensor,
        experts: torch.Tensor,
        weights: torch.Tensor | None,
        first: torch.Tensor | None,
        kept: torch.Tensor,
    ) -> None:
        """Count the experts of l adjacent layers, of which `layer` is the first.

        Parameters
        ----------
        layer : int
        rows : torch.Tensor
            Rows of the tokens, int64 [T].
        experts, weights, first : torch.Tensor
            [l, k, T], [l, k, T] and [l, T]; the last two None where weights were not recorded.
        kept : torch.Tensor
            bool [l, T].
        """
        layers = torch.arange(layer, layer + len(experts), device=self._device)[:, None, None]
        cell = (rows * len(self._layout) + layers) * self._words + _MOMENTS
        filled = kept[:, None] & (experts < self._experts)
        trash, counts = len(self._memory) - 1, self._memory.view(torch.int32)
        chosen = 2 * (cell + self._experts)
        _count(counts, torch.where(filled, chosen + experts, 2 * trash))
        if weights is not None and first is not None:
            at = torch.where(filled, cell + experts, trash)
            self._memory.scatter_add_(0, at.flatten(), weights.double().flatten())
            _count(counts, torch.where(kept, (chosen + self._experts)[:, 0] + first, 2 * trash))

    def state(self) -> dict[str, torch.Tensor]:
        """Tensors to keep in a checkpoint; of the rows only those in use."""
        # As whole numbers: some words are, and read as floats they may be NaN, which need not survive a copy.
        return {"cells": self._cells[: self._used].view(torch.int64), "token_of": self._token_of[: self._used]}

    def load_state(self, state: Mapping[str, torch.Tensor]) -> bool:
        """Continue from what :meth:`state` gave; False, and nothing done, if it is of another shape."""
        used = len(state["cells"])
        if used > self.rows or (self._row_of is None and used != self.rows):
            return False
        before, self._used = self._used, used
        if any(tensor.shape != state[name].shape for name, tensor in self.state().items()):
            self._used = before
            return False
        self.reset()
        self._used = used
        for name, tensor in self.state().items():
            tensor.copy_(state[name])
        if self._row_of is not None:
            rows = torch.arange(used, dtype=torch.int32, device=self._device)
            self._row_of[self._token_of[:used].long()] = rows
        return True

    def reset(self) -> None:
        """Forget everything."""
        self._memory.zero_()
        if self._row_of is not None:
            self._row_of.fill_(_NO_ROW)
            self._used = 0

    def tables(self, layer: int, domain: str, logits: bool, weights: bool) -> dict[str, pa.Table]:
        """The rows of ``token_stats`` and ``expert_counts`` of one layer, sparse and sorted.

        Parameters
        ----------
        layer : int
        domain : str
        logits, weights : bool
            Whether they were recorded; what is computed from them is null if not.
        """
        cells = self._cells[: self._used, layer]
        seen = cells[:, 0].nonzero().flatten()
        token = seen.int() if self._row_of is None else self._token_of[seen]
        if self._row_of is not None:
            token, order = token.sort()
            seen = seen[order]
        if self._device.type == "cpu":
            words, at = self._memory, (seen * len(self._layout) + layer) * self._words
        else:
            words = cells.index_select(0, seen).cpu().flatten()
            at = torch.arange(0, len(words), self._words)
        found = read_cells(
            words.numpy(),
            words.view(torch.int32).numpy(),
            at.numpy(),
            token.cpu().numpy(),
            _MOMENTS,
            self._experts,
        )
        return {
            "token_stats": _token_stats(layer, domain, token.cpu().numpy(), found[0], logits),
            "expert_counts": _expert_counts(layer, domain, found[1:], weights),
        }


def _token_stats(layer: int, domain: str, token: np.ndarray, found: np.ndarray, logits: bool) -> pa.Table:
    n, *moments = found
    columns: dict[str, object] = {"layer": layer, "token_id": token, "n": n.astype(np.int64)}
    for (moment, quantity), values in zip(itertools.product(("mean", "m2"), QUANTITIES), moments, strict=True):
        columns[f"{quantity}_{moment}"] = values if logits else None
    return statistics_table(TOKEN_STATS, domain, columns, len(token))


def _expert_counts(layer: int, domain: str, found: tuple[np.ndarray, ...], weights: bool) -> pa.Table:
    token, expert, chosen, first, weight_sum = found
    columns: dict[str, object] = {
        "layer": layer,
        "token_id": token,
        "expert": expert,
        "chosen": chosen,
        "first": first if weights else None,
        "weight_sum": weight_sum if weights else None,
    }
    return statistics_table(EXPERT_COUNTS, domain, columns, len(expert))


def _cell_words(layout: RouterLayout) -> int:
    return -(-(_MOMENTS + 2 * layout.experts) // _LINE) * _LINE


def row_bytes(layout: RouterLayout) -> int:
    """Memory that the statistics of one token id take, in bytes."""
    return 8 * len(layout) * _cell_words(layout)


def _count(cells: torch.Tensor, at: torch.Tensor) -> None:
    ones = torch.ones((), dtype=cells.dtype, device=cells.device).expand(at.numel())
    cells.scatter_add_(0, at.flatten(), ones)


def _summed(values: torch.Tensor, at: torch.Tensor, cells: int) -> torch.Tensor:
    sums = torch.zeros(cells, dtype=values.dtype, device=values.device)
    return sums.scatter_add_(0, at.flatten(), values.flatten())
