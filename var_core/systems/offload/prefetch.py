"""Saying beforehand which experts a layer will need."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from var_core.errors import VarError
from var_core.policy.tables import PolicyTables

Predicted = Sequence[Sequence[int]]
"""Of each layer, the experts that are predicted for it."""


class Predictor(Protocol):
    """Predicts experts: those known when a step begins, and those that a layer's experts tell about the next one."""

    def begins(self, token_ids: torch.Tensor, previous: torch.Tensor, position: torch.Tensor) -> Predicted:
        """A step begins.

        Parameters
        ----------
        token_ids : torch.Tensor
            int64 [T], on the host: of all sequences; tokens that do not count are left out.
        previous, position : torch.Tensor
            int64 [T]: as :class:`var_core.policy.sequences.Tokens` has them.

        Returns
        -------
        sequence of sequence of int
            Distinct experts for each of the L layers.
        """

    def decided(self, layer: int, experts: Sequence[int]) -> Sequence[int]:
        """A layer needs these distinct experts; the experts predicted for the layer behind it."""


class NoPrediction:
    """Predicts nothing: what is not resident is loaded when it is needed."""

    def __init__(self, layers: int) -> None:
        self._nothing: Predicted = [()] * layers

    def begins(self, token_ids: torch.Tensor, previous: torch.Tensor, position: torch.Tensor) -> Predicted:
        """Nothing."""
        return self._nothing

    def decided(self, layer: int, experts: Sequence[int]) -> Sequence[int]:
        """Nothing."""
        return ()


class TokenTable(NoPrediction):
    """Predicts for each token the experts of the row that owns it in a policy's tables; nothing where none does.

    Parameters
    ----------
    tables : PolicyTables
        Of the model's layers, in their order.
    experts : int
        E, which a row has in empty slots.
    """

    def __init__(self, tables: PolicyTables, experts: int) -> None:
        super().__init__(len(tables.present))
        self._tables, self._experts = tables.to(torch.device("cpu")), experts

    def begins(self, token_ids: torch.Tensor, previous: torch.Tensor, position: torch.Tensor) -> Predicted:
        """Experts of all tokens' rows."""
        owner = self._tables.rows(token_ids, previous, position).owner
        predicted = []
        for layer, rows in enumerate(owner):
            experts = self._tables.experts[layer, rows[rows >= 0]].flatten().numpy()
            predicted.append(np.unique(experts[experts < self._experts]).tolist())
        return predicted


class NextLayer(NoPrediction):
    """Predicts a layer's experts from those of the layer before: as many, the likeliest to go with them.

    Parameters
    ----------
    together : numpy.ndarray
        [L - 1, E, E]: how often tokens that chose expert i at layer l chose expert j at layer l + 1, as
        :func:`count_transitions` counts it.

    Raises
    ------
    VarError
        If it is of another shape.
    """

    def __init__(self, together: NDArray[Any]) -> None:
        if together.ndim != 3 or together.shape[1] != together.shape[2]:
            raise VarError(f"counts of experts at neighbouring layers have shape {together.shape}, not (L - 1, E, E)")
        super().__init__(len(together) + 1)
        totals = together.sum(axis=2, keepdims=True)
        self._share = together / np.maximum(totals, 1)

    def decided(self, layer: int, experts: Sequence[int]) -> Sequence[int]:
        """As many experts as this layer needs; of equally likely ones the lowest numbers."""
        if layer >= len(self._share):
            return ()
        score = self._share[layer, list(experts)].sum(axis=0)
        likeliest = np.argsort(-score, kind="stable")[: len(experts)]
        return [int(each) for each in likeliest if score[each] > 0]


class RandomExperts(NoPrediction):
    """Predicts k random experts a token and layer: what prefetching is worth without knowing anything.

    Parameters
    ----------
    layers, experts, top_k : int
        L, E, k.
    seed : int, optional
    """

    def __init__(self, layers: int, experts: int, top_k: int, seed: int = 0) -> None:
        super().__init__(layers)
        self._layers, self._experts, self._top_k = layers, experts, top_k
        self._random = np.random.default_rng(seed)

    def begins(self, token_ids: torch.Tensor, previous: torch.Tensor, position: torch.Tensor) -> Predicted:
        """Other experts at every call."""
        keys = self._random.random((self._layers, len(token_ids), self._experts))
        drawn = np.argpartition(keys, self._top_k - 1, axis=2)[:, :, : self._top_k]
        return [np.unique(layer).tolist() for layer in drawn]


def count_transitions(experts: NDArray[np.integer], width: int) -> NDArray[np.int64]:
    """Count which experts of neighbouring layers the same tokens chose.

    Parameters
    ----------
    experts : numpy.ndarray
        [T, L, k]; numbers outside 0 to E - 1 are empty slots.
    width : int
        E.

    Returns
    -------
    numpy.ndarray
        int64 [L - 1, E, E].
    """
    _, layers, top_k = experts.shape
    together = np.zeros((max(layers - 1, 0), width, width), np.int64)
    for layer in range(layers - 1):
        here = np.repeat(experts[:, layer], top_k, axis=1).ravel()
        behind = np.tile(experts[:, layer + 1], (1, top_k)).ravel()
        real = (here >= 0) & (here < width) & (behind >= 0) & (behind < width)
        np.add.at(together[layer], (here[real], behind[real]), 1)
    return together
