"""Saying beforehand which experts a layer will need."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from var_core.errors import VarError
from var_core.policy.tables import PolicyTables
from var_core.statistics.compiled import Flags, Wholes, compiled

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
        self._pairs, self._positions, self._present, self._rows = (
            getattr(tables, name).cpu().numpy() for name in ("pairs", "positions", "present", "experts")
        )
        self._experts = experts

    def begins(self, token_ids: torch.Tensor, previous: torch.Tensor, position: torch.Tensor) -> Predicted:
        """Experts of all tokens' rows."""
        layers = len(self._nothing)
        named = np.zeros((layers, self._experts), np.bool_)
        # Compiled: it is worth nothing to know experts beforehand if finding them takes as long as loading them.
        _name(
            self._pairs, self._positions, self._present, self._rows, token_ids.numpy(), previous.numpy(),
            position.numpy(), named,
        )  # fmt: skip
        return [np.flatnonzero(each).tolist() for each in named]


@compiled
def _name(
    pairs: Wholes,
    positions: Wholes,
    present: Flags,
    experts: NDArray[np.int16],
    token_ids: Wholes,
    previous: Wholes,
    position: Wholes,
    named: Flags,
) -> None:
    """Mark the experts of the rows that own the tokens, as :meth:`PolicyTables.rows` finds them."""
    layers, width = named.shape
    vocabulary = present.shape[1] - len(pairs) - 1
    for at in range(len(token_ids)):
        token, context = token_ids[at], previous[at]
        if token < 0 or token >= vocabulary:
            continue
        if context >= vocabulary:
            context = -1
        if len(positions) and positions[0] <= position[at] < positions[-1]:
            context = vocabulary + np.searchsorted(positions, position[at], side="right") - 1
        pair = -1
        if context >= 0 and len(pairs):
            key = context * vocabulary + token
            place = np.searchsorted(pairs, key)
            if place < len(pairs) and pairs[place] == key:
                pair = vocabulary + place
        for layer in range(layers):
            row = pair if pair >= 0 and present[layer, pair] else token
            if not present[layer, row]:
                continue
            for slot in range(experts.shape[2]):
                expert = experts[layer, row, slot]
                if 0 <= expert < width:
                    named[layer, expert] = True


class NextLayer(NoPrediction):
    """Predicts a layer's experts from those of the layer before: as many, the likeliest to go with them.

    Parameters
    ----------
    together : numpy.ndarray
        [L - 1, E, E]: how often tokens that chose expert i at layer l chose expert j at layer l + 1, as
        :func:`var_core.systems.predictions.fit_next_layer` counts it.

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
