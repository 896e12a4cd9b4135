"""The part of the statistics that is kept for every layer: counts, and which experts go together."""

import functools
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import torch

from var_core.routing.batch import RouterLayout
from var_core.statistics.tables import EXPERT_MATRIX_COLUMNS, LAYER_COUNT_COLUMNS, LAYER_STATS, statistics_table

_NEED_WEIGHTS = ("first_repeats", "next_first", "next_first_shuffled")


class LayerState:
    """Whole numbers by layer, and E x E matrices of them.

    Parameters
    ----------
    layout : RouterLayout
        L layers of at most E experts.
    device : torch.device
        Where the state lives.
    """

    def __init__(self, layout: RouterLayout, device: torch.device) -> None:
        self._layout = layout
        layers, experts = len(layout), layout.experts
        self._matrix = experts**2
        self._counts = torch.zeros((len(LAYER_COUNT_COLUMNS), layers), dtype=torch.int64, device=device)
        # One cell more than the matrices have: what does not count is added there.
        size = layers * self._matrix + 1
        self._matrices = {name: torch.zeros(size, dtype=torch.int64, device=device) for name in EXPERT_MATRIX_COLUMNS}

    @functools.cached_property
    def arrays(self) -> tuple[np.ndarray, ...]:
        """The state of a CPU as numpy arrays that share its memory.

        Returns
        -------
        tuple of numpy.ndarray
            Counts in the order of ``tables.LAYER_COUNT_COLUMNS``, [7, L], and the matrices, each [L, E, E].
        """
        shape = (self._counts.shape[1], self._layout.experts, self._layout.experts)
        return (self._counts.numpy(), *(cells[:-1].view(shape).numpy() for cells in self._matrices.values()))

    @property
    def tokens(self) -> int:
        """Most decisions that were counted at a layer so far."""
        return int(self._counts[LAYER_COUNT_COLUMNS.index("tokens")].max())

    @property
    def nonfinite(self) -> torch.Tensor:
        """Decisions left out so far because a logit was NaN or infinite, int64 [L]."""
        return self._counts[LAYER_COUNT_COLUMNS.index("nonfinite")]

    def add_decisions(self, layer: int, finite: torch.Tensor, kept: torch.Tensor) -> None:
        """Count decisions of l adjacent layers, of which `layer` is the first; masks are bool [l, T]."""
        finite_decisions, tokens = finite.sum(dim=1), kept.sum(dim=1)
        self._add("tokens", layer, tokens)
        self._add("nonfinite", layer, finite.shape[1] - finite_decisions)
        self._add("dropped", layer, finite_decisions - tokens)

    def add_pairs_of_experts(self, layer: int, hot: torch.Tensor, before: torch.Tensor | None) -> None:
        """Count pairs of experts chosen together, and joint choices with the layer before.

        Parameters
        ----------
        layer : int
            First of l adjacent layers.
        hot : torch.Tensor
            Their chosen experts, float32 [l, E, T]; zeros for what does not count. Sums below 2**24 are exact.
        before : torch.Tensor or None
            Those of the layer before them, [1, E, T].
        """
        by_token = hot.transpose(1, 2)
        self._add_matrix("coactivation", layer, torch.bmm(hot, by_token))
        if len(hot) > 1:
            self._add_matrix("next_chosen", layer, torch.bmm(hot[:-1], by_token[1:]))
        if before is not None:
            self._add_matrix("next_chosen", layer - 1, torch.bmm(before, by_token[:1]))

    def add_next_first(self, first: torch.Tensor, following: Mapping[str, torch.Tensor]) -> None:
        """Count joint first choices of adjacent layers.

        Parameters
        ----------
        first : torch.Tensor
            First choices at layers 0 to L - 2, int64 [L - 1, T]; E for what does not count.
        following : mapping of str to torch.Tensor
            Column -> first choices at the layers after them, in the order of the tokens or in another.
        """
        E = self._layout.experts
        start = torch.arange(0, len(first) * self._matrix, self._matrix, device=first.device)[:, None] + first * E
        ones = torch.ones((), dtype=torch.int64, device=first.device).expand(first.numel())
        for name, after in following.items():
            cells = self._matrices[name]
            joint = torch.where(torch.maximum(first, after) < E, start + after, len(cells) - 1)
            cells.scatter_add_(0, joint.flatten(), ones)

    def add_repeats(self, layer: int, hot: torch.Tensor, first: torch.Tensor | None, paired: torch.Tensor) -> None:
        """Count choices shared by consecutive tokens.

        Parameters
        ----------
        layer : int
            First of l adjacent layers.
        hot : torch.Tensor
            [l, E, T].
        first : torch.Tensor or None
            First choices, [l, T].
        paired : torch.Tensor
            Where a token and the next are of one document and both count, bool [l, T - 1].
        """
        overlap = (hot[..., :-1] * hot[..., 1:]).sum(dim=1) * paired
        self._add("pairs", layer, paired.sum(dim=1))
        self._add("any_repeats", layer, torch.count_nonzero(overlap, dim=1))
        self._add("slot_overlaps", layer, overlap.sum(dim=1).long())
        if first is not None:
            self._add("first_repeats", layer, ((first[:, :-1] == first[:, 1:]) & paired).sum(dim=1))

    def _add(self, name: str, layer: int, counts: torch.Tensor) -> None:
        self._counts[LAYER_COUNT_COLUMNS.index(name), layer : layer + len(counts)] += counts

    def _add_matrix(self, name: str, layer: int, counts: torch.Tensor) -> None:
        self._matrices[name][layer * self._matrix : (layer + len(counts)) * self._matrix] += counts.flatten().long()

    def state(self) -> dict[str, torch.Tensor]:
        """Tensors to keep in a checkpoint; not copies."""
        return {"counts": self._counts, **self._matrices}

    def reset(self) -> None:
        """Forget everything."""
        for tensor in self.state().values():
            tensor.zero_()

    def table(
        self, layer: int, domain: str, logits: bool, first: np.ndarray | None, weight_sum: np.ndarray | None
    ) -> pa.Table:
        """The row of ``layer_stats`` of one layer.

        Parameters
        ----------
        layer : int
        domain : str
        logits : bool
            Whether they were recorded.
        first, weight_sum : numpy.ndarray or None
            By expert, [E], from the token ids' state; None where weights were not recorded.
        """
        shapes, E = self._layout.layers, self._layout.experts
        own = shapes[layer].experts
        columns: dict[str, object] = {"layer": layer, "first": [first], "weight_sum": [weight_sum]}
        for name, counts in zip(LAYER_COUNT_COLUMNS, self._counts, strict=True):
            columns[name] = [int(counts[layer])]
        for name in EXPERT_MATRIX_COLUMNS:
            after = layer + name.startswith("next_")
            if after == len(shapes):
                columns[name] = None
                continue
            cells = self._matrices[name][layer * self._matrix : (layer + 1) * self._matrix].cpu().numpy()
            columns[name] = [cells.reshape(E, E)[:own, : shapes[after].experts].flatten()]
        together = self._matrices["coactivation"][layer * self._matrix : (layer + 1) * self._matrix]
        columns["chosen"] = [together.view(E, E).diagonal()[:own].cpu().numpy().copy()]
        if not logits:
            columns["nonfinite"] = None
        if weight_sum is None:
            columns |= dict.fromkeys((*_NEED_WEIGHTS, "first", "weight_sum"))
        return statistics_table(LAYER_STATS, domain, columns, rows=1)
