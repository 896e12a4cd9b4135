"""The tables of a policy: rows of experts by token, by token in a context, and for everything."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

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
        int64 [2, T]: the row of the token in its context, the token's own; the order in which they are asked.
    owner : torch.Tensor
        int64 [L, T]: the first of them that has an entry at a layer; -1 where none has.
    """

    candidates: torch.Tensor
    owner: torch.Tensor


@dataclass(frozen=True)
class PolicyTables:
    """Tables of all layers, one row after another: V token ids, P pairs of context and token, and one for all.

    Every decision has one owner: the row of its pair if the layer has that entry, else the token's if it has that,
    else none. Only the owner's agreement says whether the fast path takes the decision; so a pair with a low agreement
    is an exception that leaves a token to the router which is otherwise taken.

    Attributes
    ----------
    pairs : torch.Tensor
        int64 [P], ascending: context * V + token id, see :func:`pair_keys`.
    positions : torch.Tensor
        int64 [C + 1], ascending, or empty: first position of each of C classes of early positions, and the first
        position after them.
    experts : torch.Tensor
        int16 [L, R, k], R = V + P + 1; E where a slot is empty.
    weights : torch.Tensor
        float32 [L, R, k].
    present : torch.Tensor
        bool [L, R]: whether a row has an entry.
    agreement : torch.Tensor
        float32 [L, R]: agreement with the learned router of the decisions that a row owns, estimated on text that the
        entries were not fitted on; NaN where nothing was estimated.
    usable : torch.Tensor
        bool [L, R]: whether the fast path takes the decisions that the row owns.
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
        return self.experts.shape[1] - len(self.pairs) - 1

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
            int64 [T]: the token id before each that the model sees; -1 for none.
        position : torch.Tensor
            int64 [T]: the position that the model gives it, from 0.
        """
        V, P = self.vocabulary, len(self.pairs)
        token = torch.where((token_ids >= 0) & (token_ids < V), token_ids, NO_ROW)
        pair = torch.full_like(token, NO_ROW)
        if P:
            key = pair_keys(token_ids, previous, position, self.positions, V)
            place = torch.searchsorted(self.pairs, key).clamp(max=P - 1)
            pair = torch.where(self.pairs[place] == key, V + place, NO_ROW)
        by_token = torch.where(self._held(token), token, NO_ROW)
        owner = torch.where(self._held(pair), pair, by_token) if P else by_token
        return TableRows(torch.stack((pair, token)), owner)

    def _held(self, row: torch.Tensor) -> torch.Tensor:
        return self.present[:, row.clamp(min=0)] & (row >= 0)

    def usable_row(self, rows: TableRows) -> torch.Tensor:
        """The owner of each token where the fast path takes what it owns, int64 [L, T]; else -1."""
        usable = self.usable.gather(1, rows.owner.clamp(min=0)) & (rows.owner >= 0)
        return torch.where(usable, rows.owner, NO_ROW)

    def any_row(self, rows: TableRows) -> torch.Tensor:
        """The owner of each token, int64 [L, T]; where there is none, the row for everything."""
        return torch.where(rows.owner >= 0, rows.owner, self.experts.shape[1] - 1)


def pair_keys(
    token_ids: torch.Tensor, previous: torch.Tensor, position: torch.Tensor, positions: torch.Tensor, vocabulary: int
) -> torch.Tensor:
    """Keys of tokens in their contexts, int64 [T]; -1 where there is none.

    The context is the token before; but at early positions, where the model has seen little and routes differently, it
    is the class c of the position, numbered V + c.

    Parameters
    ----------
    token_ids, previous, position : torch.Tensor
        As in :meth:`PolicyTables.rows`.
    positions : torch.Tensor
        As in :class:`PolicyTables`.
    vocabulary : int
        V.
    """
    context = torch.where(previous < vocabulary, previous, NO_ROW)
    if len(positions):
        by_position = torch.searchsorted(positions, position, right=True) - 1
        early = (by_position >= 0) & (by_position < len(positions) - 1)
        context = torch.where(early, vocabulary + by_position, context)
    known = (token_ids >= 0) & (token_ids < vocabulary) & (context >= 0)
    return torch.where(known, context * vocabulary + token_ids, NO_ROW)


def assemble(
    vocabulary: int,
    width: int,
    tokens: Sequence[Entries],
    everything: Sequence[Entries],
    pairs: Sequence[Entries] = (),
    positions: Sequence[int] = (),
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
    pairs : sequence of Entries, optional
        A layer each, keys as in :attr:`PolicyTables.pairs`.
    positions : sequence of int, optional
        As in :attr:`PolicyTables.positions`.
    """
    pair_ids = np.unique(np.concatenate([part.key for part in pairs])) if len(pairs) else np.zeros(0, np.int64)
    layers, k, last = len(tokens), everything[0].experts.shape[1], vocabulary + len(pair_ids)
    experts = np.full((layers, last + 1, k), width, np.int16)
    weights = np.zeros((layers, last + 1, k), np.float32)
    present = np.zeros((layers, last + 1), np.bool_)
    for layer in range(layers):
        parts = [(tokens[layer], tokens[layer].key), (everything[layer], np.array([last]))]
        if len(pair_ids):
            parts.append((pairs[layer], vocabulary + np.searchsorted(pair_ids, pairs[layer].key)))
        for entries, row in parts:
            experts[layer, row], weights[layer, row], present[layer, row] = entries.experts, entries.weights, True
    unknown = np.full((layers, last + 1), np.nan, np.float32)
    starts = np.array(positions, np.int64)
    arrays = (pair_ids, starts, experts, weights, present, unknown, np.zeros_like(present))
    return PolicyTables(*(torch.from_numpy(array) for array in arrays))


def keep_pairs(tables: PolicyTables, kept: NDArray[np.bool_]) -> PolicyTables:
    """The tables with only some entries of pairs; their decisions are owned by the tokens' rows then.

    Parameters
    ----------
    tables : PolicyTables
    kept : numpy.ndarray
        bool [L, P]; a pair that no layer keeps has no row any more.
    """
    V, kept = tables.vocabulary, kept & tables.present[:, tables.vocabulary : -1].numpy()
    some = torch.from_numpy(kept.any(axis=0))
    row = torch.cat((torch.ones(V, dtype=torch.bool), some, torch.ones(1, dtype=torch.bool)))
    names = ("experts", "weights", "present", "agreement", "usable")
    fewer = {name: getattr(tables, name)[:, row] for name in names}
    here = torch.from_numpy(kept)[:, some]
    for name in ("present", "usable"):
        fewer[name][:, V:-1] &= here
    return replace(tables, pairs=tables.pairs[some], **fewer)


def token_only(tables: PolicyTables) -> PolicyTables:
    """The tables by token id, and for everything: without pairs."""
    if not len(tables.pairs):
        return tables
    return keep_pairs(tables, np.zeros((len(tables.present), len(tables.pairs)), np.bool_))
