"""A policy's decisions on recorded routing, by the code that decides in a running model."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from var_core.errors import VarError
from var_core.policy.decider import Decider
from var_core.policy.recorded import RecordedDecisions, read_decisions, recall_at_k, set_agreement
from var_core.policy.sequences import Tokens
from var_core.policy.settings import PolicySettings
from var_core.policy.tables import PolicyTables
from var_core.policy.ways import Way
from var_core.routing.batch import RouterLayout

_SEQUENCES = 256
"""Sequences that are replayed at once; decisions do not depend on it, but for a cache that sequences share."""
_BY_LAYER = ("experts", "weights", "present", "agreement", "usable")


@dataclass(frozen=True)
class Replayed:
    """One layer's decisions on S recorded sequences of at most T tokens.

    Attributes
    ----------
    layer : int
    sequence : numpy.ndarray
        int64 [S]: numbers of the sequences.
    way : numpy.ndarray
        int8 [S, T]: a :class:`var_core.policy.ways.Way`; -1 where nothing was recorded.
    experts, learned : numpy.ndarray
        int64 [S, T, k]: what the policy gives, and what the router had decided.
    """

    layer: int
    sequence: NDArray[np.int64]
    way: NDArray[np.int8]
    experts: NDArray[np.int64]
    learned: NDArray[np.int64]


def replay(
    tables: PolicyTables,
    settings: PolicySettings,
    layout: RouterLayout,
    traces: Sequence[Path],
    isolate_documents: bool,
) -> Iterator[Replayed]:
    """Replay a split's trace, layer after layer and within a layer some sequences after others.

    The policy is asked for every recorded decision as if the model were running. What the recording cannot know: a
    policy's own decisions change the hidden states on which later layers' routers decide.

    Parameters
    ----------
    tables : PolicyTables
    settings : PolicySettings
    layout : RouterLayout
    traces : sequence of Path
        Of a split, in order.
    isolate_documents : bool
        Whether positions restarted with every document.

    Raises
    ------
    VarError
        If the cache or the budget needs the router's confidence, and logits were not recorded.
    """
    for layer, shape in enumerate(layout.layers):
        recorded = read_decisions(traces, layer, shape.experts, shape.top_k, isolate_documents)
        if recorded.confidence is None and settings.cache is not None:
            raise VarError(f"{traces[0].parent}: the trace has no confidence; a policy with a cache needs it")
        numbers = np.unique(recorded.sequence)
        decider = Decider(_one_layer(tables, layer), settings)
        for start in range(0, len(numbers), _SEQUENCES):
            own = numbers[start : start + _SEQUENCES]
            yield _replay(layer, shape.experts, decider, Grid.of(recorded, own))


def _one_layer(tables: PolicyTables, layer: int) -> PolicyTables:
    own = {name: getattr(tables, name)[layer : layer + 1] for name in _BY_LAYER}
    return replace(tables, **own)


@dataclass(frozen=True)
class Grid:
    """Decisions as S rows of T places, of which some are empty."""

    sequence: NDArray[np.int64]
    counts: NDArray[np.bool_]
    rows: NDArray[np.int64]
    decisions: RecordedDecisions

    @classmethod
    def of(cls, recorded: RecordedDecisions, sequences: NDArray[np.int64]) -> "Grid":
        """Lay out the decisions of some sequences, that lie one behind the other."""
        first, last = np.searchsorted(recorded.sequence, [sequences[0], sequences[-1] + 1])
        row = np.searchsorted(sequences, recorded.sequence[first:last])
        place = recorded.place[first:last]
        counts = np.zeros((len(sequences), int(place.max()) + 1), np.bool_)
        counts[row, place] = True
        rows = np.zeros(counts.shape, np.int64)
        rows[row, place] = np.arange(first, last)
        return cls(sequences, counts, rows, recorded)

    def of_tokens(self, values: NDArray[np.generic]) -> torch.Tensor:
        """A value a decision, as [S * T, ...]; whatever in empty places."""
        return torch.from_numpy(values[self.rows.ravel()])


def _replay(layer: int, width: int, decider: Decider, grid: Grid) -> Replayed:
    recorded, shape = grid.decisions, grid.counts.shape
    ids, previous, position = (
        grid.of_tokens(values).view(shape) for values in (recorded.token_id, recorded.previous, recorded.position)
    )
    counts = torch.from_numpy(grid.counts)
    place = torch.arange(shape[1]).expand(shape)
    decider.begin(shape[0])
    decider.look(Tokens(ids, counts, position == 0, previous, position, torch.from_numpy(grid.sequence), place))
    known = torch.zeros(counts.numel()) if recorded.confidence is None else grid.of_tokens(recorded.confidence)
    ways = decider.choose(0, lambda place: known)
    learned = grid.of_tokens(recorded.experts)
    given = decider.give(0, ways, learned, torch.zeros(learned.shape))
    decider.remember(0, ways, given)
    # An empty slot of a table is that of the whole layout.
    experts = torch.where(given.experts >= width, width, given.experts)
    return Replayed(
        layer, grid.sequence, ways.way.numpy().reshape(shape), experts.numpy().reshape(*shape, -1),
        learned.numpy().reshape(*shape, -1),
    )  # fmt: skip


@dataclass(frozen=True)
class SequenceSums:
    """What replayed decisions come to, by sequence, layer and way.

    Attributes
    ----------
    sequence : numpy.ndarray
        int64 [S].
    decisions : numpy.ndarray
        int64 [S, L, 3], in the order of :class:`var_core.policy.ways.Way`.
    set_agreement, recall_at_k : numpy.ndarray
        float64 [S, L, 3]: summed agreement with the router.
    """

    sequence: NDArray[np.int64]
    decisions: NDArray[np.int64]
    set_agreement: NDArray[np.float64]
    recall_at_k: NDArray[np.float64]

    def columns(self) -> dict[str, Any]:
        """Columns of a table, a row a (sequence, layer, way)."""
        S, L, W = self.decisions.shape
        return {
            "sequence": np.repeat(self.sequence, L * W),
            "layer": np.tile(np.repeat(np.arange(L), W), S),
            "way": np.tile(np.arange(W), S * L),
            "decisions": self.decisions.ravel(),
            "set_agreement": self.set_agreement.ravel(),
            "recall_at_k": self.recall_at_k.ravel(),
        }


def sum_by_sequence(replayed: Iterator[Replayed], layout: RouterLayout) -> SequenceSums:
    """Add up the decisions of all layers.

    Raises
    ------
    VarError
        If layers were not recorded for the same sequences.
    """
    parts: list[list[tuple[NDArray[np.int64], NDArray[np.float64]]]] = [[] for _ in range(len(layout))]
    for each in replayed:
        parts[each.layer].append((each.sequence, _sums(each, layout.layers[each.layer].experts)))
    layers = [tuple(np.concatenate(columns) for columns in zip(*part, strict=True)) for part in parts]
    sequence = layers[0][0]
    if any(not np.array_equal(own, sequence) for own, _ in layers):
        raise VarError("the trace has not the same sequences at all layers; capture it again")
    sums = np.stack([values for _, values in layers], axis=1)
    return SequenceSums(sequence, sums[..., 0].astype(np.int64), sums[..., 1], sums[..., 2])


def _sums(replayed: Replayed, width: int) -> NDArray[np.float64]:
    """Decisions, set agreement and recall by sequence and way, [S, 3, 3]."""
    shape, k = replayed.way.shape, replayed.learned.shape[2]
    given, learned = replayed.experts.reshape(-1, k), replayed.learned.reshape(-1, k)
    same, recall = set_agreement(given, learned).reshape(shape), recall_at_k(given, learned, width).reshape(shape)
    of_way = replayed.way[:, :, None] == np.array([int(way) for way in Way])
    values = np.stack([np.ones_like(recall), same, recall], axis=2)
    return np.einsum("stw,stv->swv", of_way, values)
