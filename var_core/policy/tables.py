"""The tables of a policy: rows of experts by token, by pair of tokens, by position, and for everything."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray

from var_core.policy.fitting import Entries

NO_ROW = -1


@dataclass(frozen=True)
class TableRows:
    """Which rows may speak for some tokens: one row of a table each, -1 where it has none.

    Attributes
    ----------
    candidates : torch.Tensor
        int64 [3, T]: the pair's row, the token's own, the position's; the order in which they are asked.
    """

    candidates: torch.Tensor


@dataclass(frozen=True)
class PolicyTables:
    """Tables of all layers, one row after another: V token ids, P pairs, C classes of positions, and one for all.

    Attributes
    ----------
    pairs : torch.Tensor
        int64 [P], ascending: previous token id * V + token id.
    positions : torch.Tensor
        int64 [C], ascending: first position of each class.
    experts : torch.Tensor
        int16 [L, R, k], R = V + P + C + 1; E where a slot is empty.
    weights : torch.Tensor
        float32 [L, R, k].
    present : torch.Tensor
        bool [L, R]: whether a row has an entry.
    agreement : torch.Tensor
        float32 [L, R]: agreement with the learned router, estimated on text that the entries were not fitted on;
        NaN where nothing was estimated.
    usable : torch.Tensor
        bool [L, R]: whether the fast path takes the entry.
    """

    pairs: torch.Tensor
    positions: torch.Tensor
    experts: torch.Tensor
    weights: torch.Tensor
    present: torch.Tensor
    agreement: torch.Tensor
    usable: torch.Tensor

    @property
    def vocabulary(self) -> int:
        """Token ids, V."""
        return self.experts.shape[1] - len(self.pairs) - len(self.positions) - 1

    @property
    def top_k(self) -> int:
        """Slots of an entry, k."""
        return int(self.experts.shape[2])

    def to(self, device: torch.device) -> "PolicyTables":
        """The same on a device."""
        return PolicyTables(*(getattr(self, field.name).to(device) for field in fields(self)))

    def rows(self, token_ids: torch.Tensor, previous: torch.Tensor, position: torch.Tensor) -> TableRows:
        """Look up the rows of tokens.

        Parameters
        ----------
        token_ids : torch.Tensor
            int64 [T].
        previous : torch.Tensor
            int64 [T]: the token id before each in its document; -1 for none.
        position : torch.Tensor
            int64 [T]: place in the document, from 0.
        """
        V, P = self.vocabulary, len(self.pairs)
        known = (token_ids >= 0) & (token_ids < V)
        token = torch.where(known, token_ids, NO_ROW)
        pair = torch.full_like(token, NO_ROW)
        if P:
            key = previous * V + token_ids
            place = torch.searchsorted(self.pairs, key).clamp(max=P - 1)
            pair = torch.where(known & (previous >= 0) & (self.pairs[place] == key), V + place, NO_ROW)
        by_position = torch.full_like(token, NO_ROW)
        if len(self.positions):
            place = torch.searchsorted(self.positions, position, right=True) - 1
            by_position = torch.where(place >= 0, V + P + place, NO_ROW)
        return TableRows(torch.stack((pair, token, by_position)))

    def usable_row(self, rows: TableRows) -> torch.Tensor:
        """First row of each token that the fast path takes, int64 [L, T]; -1 where there is none."""
        return _first(self.usable, rows.candidates, NO_ROW)

    def any_row(self, rows: TableRows) -> torch.Tensor:
        """First row of each token that has an entry at all, int64 [L, T]; else the row for everything."""
        return _first(self.present, rows.candidates, self.experts.shape[1] - 1)


def _first(which: torch.Tensor, candidates: torch.Tensor, otherwise: int) -> torch.Tensor:
    held = which[:, candidates.clamp(min=0)] & (candidates >= 0)
    first = held.int().argmax(dim=1)
    row = candidates.gather(0, first)
    return torch.where(held.any(dim=1), row, otherwise)


def assemble(
    vocabulary: int,
    width: int,
    tokens: Sequence[Entries],
    everything: Sequence[Entries],
    pairs: Sequence[Entries] = (),
    positions: Sequence[Entries] = (),
) -> PolicyTables:
    """Put the entries of all layers into tables, of which the fast path takes none yet.

    Parameters
    ----------
    vocabulary : int
        V.
    width : int
        E.
    tokens : sequence of Entries
        A layer each, keys are token ids.
    everything : sequence of Entries
        A layer each, one entry.
    pairs, positions : sequence of Entries, optional
        A layer each; keys of :attr:`PolicyTables.pairs` and first positions.
    """
    pair_keys, position_keys = (_all_keys(parts) for parts in (pairs, positions))
    starts = np.cumsum([0, vocabulary, len(pair_keys), len(position_keys)])
    layers, k, rows = len(tokens), everything[0].experts.shape[1], int(starts[-1]) + 1
    experts = np.full((layers, rows, k), width, np.int16)
    weights = np.zeros((layers, rows, k), np.float32)
    present = np.zeros((layers, rows), np.bool_)
    for layer in range(layers):
        parts = [(tokens[layer], tokens[layer].key), (everything[layer], starts[-1:])]
        if len(pair_keys):
            parts.append((pairs[layer], starts[1] + np.searchsorted(pair_keys, pairs[layer].key)))
        if len(position_keys):
            parts.append((positions[layer], starts[2] + np.searchsorted(position_keys, positions[layer].key)))
        for entries, row in parts:
            experts[layer, row], weights[layer, row], present[layer, row] = entries.experts, entries.weights, True
    unknown = np.full((layers, rows), np.nan, np.float32)
    arrays = (pair_keys, position_keys, experts, weights, present, unknown, np.zeros_like(present))
    return PolicyTables(*(torch.from_numpy(array) for array in arrays))


def _all_keys(parts: Sequence[Entries]) -> NDArray[np.int64]:
    return np.unique(np.concatenate([part.key for part in parts])) if len(parts) else np.zeros(0, np.int64)
