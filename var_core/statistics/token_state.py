"""The part of the statistics that is kept for every token id: moments, and how often each expert was chosen."""

import itertools
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import torch

from var_core.errors import VarError
from var_core.routing.batch import RouterLayout
from var_core.statistics.tables import EXPERT_COUNTS, QUANTITIES, TOKEN_STATS, statistics_table

_CELL_BYTES = 4 + 4 + 8  # chosen, first, weight_sum of one (token id, layer, expert)
_MOMENT_BYTES = 8 * (1 + 2 * len(QUANTITIES))  # n, means and m2 of one (token id, layer)
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
    """

    def __init__(self, layout: RouterLayout, vocabulary: int, device: torch.device, max_bytes: int | None) -> None:
        self._layout, self._device = layout, device
        starts = np.cumsum([0, *(layer.experts for layer in layout.layers)])
        self.cells = int(starts[-1])  # of one token id
        self.starts = starts[:-1]  # of each layer among them
        self._start = torch.tensor(self.starts, device=device)[:, None, None]
        self._bounds = [(int(a), int(b)) for a, b in itertools.pairwise(starts)]
        dense = max_bytes is None or vocabulary * row_bytes(layout) <= max_bytes
        self.rows = vocabulary if max_bytes is None or dense else max_bytes // row_bytes(layout)
        self._row_of = None if dense else torch.full((vocabulary,), _NO_ROW, dtype=torch.int32, device=device)
        self._token_of = torch.zeros(0 if dense else self.rows, dtype=torch.int32, device=device)
        self._used = self.rows if dense else 0
        # n, means and m2 side by side: one gather and one scatter a batch. Whole numbers are exact below 2**53.
        shape = (self.rows, len(layout), 1 + 2 * len(QUANTITIES))
        self._moments = torch.zeros(shape, dtype=torch.float64, device=device)
        # One cell more than there are: what does not count is added there.
        cells = self.rows * self.cells + 1
        self._chosen = torch.zeros(cells, dtype=torch.int32, device=device)
        self._first = torch.zeros(cells, dtype=torch.int32, device=device)
        self._weight_sum = torch.zeros(cells, dtype=torch.float64, device=device)

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

    def arrays(self) -> tuple[np.ndarray, ...]:
        """The state of a CPU as numpy arrays that share its memory.

        Returns
        -------
        tuple of numpy.ndarray
            n, means and m2 of every row and layer, [rows, L, 1 + 2 Q]; then ``chosen``, ``first`` and
            ``weight_sum`` by cell, [rows * cells + 1].
        """
        return tuple(each.numpy() for each in (self._moments, self._chosen, self._first, self._weight_sum))

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
        if values is None:
            self._moments[..., 0].index_add_(0, present, n.T)
            return
        each = cell + torch.arange(0, Q * cells, cells, device=self._device)[:, None, None]
        sums = _summed(torch.where(kept, values, 0.0), each, Q * cells).view(Q, layers, types)
        mean = sums / n.clamp_min(1.0)
        deviation = values - mean.flatten().index_select(0, each.flatten()).view_as(values)
        m2 = _summed(torch.where(kept, deviation.square_(), 0.0), each, Q * cells).view(Q, layers, types)
        state = self._moments.index_select(0, present).permute(2, 1, 0).contiguous()
        before, old_mean, old_m2 = state[0], state[1 : Q + 1], state[Q + 1 :]
        share = n / (before + n).clamp_min(1.0)
        delta = mean.sub_(old_mean).mul_(n > 0)
        old_m2 += m2.add_(delta.square() * (before * share))
        old_mean += delta.mul_(share)
        before += n
        self._moments.index_copy_(0, present, state.permute(2, 1, 0).contiguous())

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
        trash = len(self._chosen) - 1
        start = rows * self.cells + self._start[layer : layer + len(experts)]
        filled = kept[:, None] & (experts < self._layout.experts)
        slot = torch.where(filled, start + experts, trash).flatten()
        _count(self._chosen, slot)
        if weights is not None and first is not None:
            self._weight_sum.scatter_add_(0, slot, weights.double().flatten())
            _count(self._first, torch.where(kept, start[:, 0] + first, trash).flatten())

    def state(self) -> dict[str, torch.Tensor]:
        """Tensors to keep in a checkpoint; of the rows only those in use."""
        return {
            "moments": self._moments[: self._used],
            "chosen": self._chosen[: self._used * self.cells],
            "first": self._first[: self._used * self.cells],
            "weight_sum": self._weight_sum[: self._used * self.cells],
            "token_of": self._token_of[: self._used],
        }

    def load_state(self, state: Mapping[str, torch.Tensor]) -> bool:
        """Continue from what :meth:`state` gave; False, and nothing done, if it is of another shape."""
        used = state["moments"].shape[0]
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
        for tensor in (self._moments, self._chosen, self._first, self._weight_sum):
            tensor.zero_()
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
        seen = np.flatnonzero(self._moments[: self._used, layer, 0].cpu().numpy())
        token = seen if self._row_of is None else self._token_of.cpu().numpy()[seen]
        if self._row_of is not None:
            order = np.argsort(token)
            seen, token = seen[order], token[order]
        return {
            "token_stats": self._token_stats(layer, domain, token, seen, logits),
            "expert_counts": self._expert_counts(layer, domain, token, seen, weights),
        }

    def _token_stats(self, layer: int, domain: str, token: np.ndarray, rows: np.ndarray, logits: bool) -> pa.Table:
        moments = self._moments[: self._used, layer].cpu().numpy()[rows]
        columns: dict[str, object] = {"layer": layer, "token_id": token, "n": moments[:, 0].astype(np.int64)}
        for column, (moment, quantity) in enumerate(itertools.product(("mean", "m2"), QUANTITIES), start=1):
            columns[f"{quantity}_{moment}"] = moments[:, column] if logits else None
        return statistics_table(TOKEN_STATS, domain, columns, len(rows))

    def _expert_counts(self, layer: int, domain: str, token: np.ndarray, rows: np.ndarray, weights: bool) -> pa.Table:
        first, last = self._bounds[layer]

        def of_seen(cells: torch.Tensor) -> np.ndarray:
            by_row = cells[: self._used * self.cells].view(self._used, self.cells)
            return np.asarray(by_row[:, first:last].cpu().numpy()[rows].ravel())

        chosen = of_seen(self._chosen)
        at = np.flatnonzero(chosen)
        row, expert = np.divmod(at, last - first)
        columns: dict[str, object] = {
            "layer": layer,
            "token_id": token[row],
            "expert": expert,
            "chosen": chosen[at],
            "first": of_seen(self._first)[at] if weights else None,
            "weight_sum": of_seen(self._weight_sum)[at] if weights else None,
        }
        return statistics_table(EXPERT_COUNTS, domain, columns, len(at))


def row_bytes(layout: RouterLayout) -> int:
    """Memory that the statistics of one token id take, in bytes."""
    return len(layout) * _MOMENT_BYTES + sum(layer.experts for layer in layout.layers) * _CELL_BYTES


def _count(cells: torch.Tensor, at: torch.Tensor) -> None:
    cells.scatter_add_(0, at, torch.ones((), dtype=cells.dtype, device=cells.device).expand(len(at)))


def _summed(values: torch.Tensor, at: torch.Tensor, cells: int) -> torch.Tensor:
    sums = torch.zeros(cells, dtype=values.dtype, device=values.device)
    return sums.scatter_add_(0, at.flatten(), values.flatten())
