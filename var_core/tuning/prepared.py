"""Recorded decisions, prepared so that a policy is replayed on them in milliseconds.

All that does not depend on a policy's thresholds is worked out once: which row of a table owns each decision, and how
far that row's experts are from the router's; and for every size of the cache that is tried, which contexts come again,
and how far what was decided there before is from what is decided now. What remains is to choose the ways, and that is
done by the code that decides in the running model (:mod:`var_core.policy.decide`, :mod:`var_core.policy.cache`); tests
hold both to each other, decision for decision.
"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from var_core.errors import VarError
from var_core.policy.budget import Budget
from var_core.policy.cache import CacheLimits, ContextCache
from var_core.policy.decide import Step, choose_ways
from var_core.policy.limited import Limited, choose_limited_ways
from var_core.policy.memory import UNTRUSTED, Found
from var_core.policy.recorded import RecordedDecisions, read_decisions
from var_core.policy.replay import Grid
from var_core.policy.settings import PolicySettings, Weights
from var_core.policy.tables import NO_ROW, PolicyTables, TableRows
from var_core.policy.ways import Way
from var_core.routing.batch import RouterLayout
from var_core.tuning.scores import add_up, score_origins, score_rows

_SEQUENCES = 64
"""Sequences whose contexts are looked up at once: as many as a processor's cache holds the memories of."""
_REMEMBERED_BYTES = 512 * 2**20
"""Scores of caches that were tried are kept up to this size, those used last."""


@dataclass(frozen=True)
class Sums:
    """What a policy's decisions on S sequences come to, by sequence, layer and way.

    Attributes
    ----------
    values : numpy.ndarray
        float64 [S, L, 3, 4]: by :class:`var_core.policy.ways.Way`: decisions, and of these the sums of set agreement,
        of recall, and of the share of the router's weights that is misplaced.
    """

    values: NDArray[np.float64]

    @property
    def decisions(self) -> NDArray[np.float64]:
        """[S, L, 3]."""
        return self.values[..., 0]

    @property
    def learned_share(self) -> float:
        """Share of the decisions that the router makes."""
        by_way = self.decisions.sum(axis=(0, 1))
        return float(by_way[Way.LEARNED] / by_way.sum())

    def of_replaced(self, score: int) -> float:
        """Mean score of the replaced decisions; NaN where there are none."""
        replaced = self.values[:, :, Way.LEARNED + 1 :].sum(axis=(0, 1, 2))
        return float(replaced[1 + score] / replaced[0]) if replaced[0] else float("nan")

    @property
    def misplaced(self) -> float:
        """Share of the router's weights that is misplaced, over all decisions."""
        return float(self.values[..., 3].sum() / self.decisions.sum())

    def of(self, sequences: NDArray[np.bool_]) -> "Sums":
        """Those of some sequences."""
        return Sums(self.values[sequences])


@dataclass(frozen=True)
class _Owned:
    """Tables, and which of their rows own the decisions, R for none; with the rows' scores, float32 [L, N, 3]."""

    tables: PolicyTables
    rows: TableRows
    place: torch.Tensor
    scores: dict[Weights, NDArray[np.float32]]


@dataclass(frozen=True)
class _CacheOf:
    """What a cache of some size finds: with the scores of what it gives, float32 [L, N, 3]."""

    found: Found
    scores: NDArray[np.float32]


class PreparedTrace:
    """A split's decisions, and tables that policies choose rows of.

    Parameters
    ----------
    traces : sequence of Path
        Of the split, in order.
    layout : RouterLayout
    tables : mapping of str to PolicyTables
        Calibrated, by a name of the choice of tables.
    isolate_documents : bool
        Whether positions restarted with every document.

    Attributes
    ----------
    sequence : numpy.ndarray
        int64 [S]: numbers of the sequences.
    decisions : int
        Recorded decisions, over all layers.

    Raises
    ------
    VarError
        If token ids or weights were not recorded, or not the same sequences at all layers.
    """

    def __init__(
        self, traces: Sequence[Path], layout: RouterLayout, tables: Mapping[str, PolicyTables], isolate_documents: bool
    ) -> None:
        self._layout, self._source = layout, traces[0].parent
        experts, weights, confidence = [], [], []
        for layer, shape in enumerate(layout.layers):
            recorded = read_decisions(traces, layer, shape.experts, shape.top_k, isolate_documents)
            if recorded.weights is None:
                raise VarError(f"{self._source}: the trace has no weights; tuning needs them")
            numbers = np.unique(recorded.sequence)
            grid = Grid.of(recorded, numbers)
            if layer == 0:
                self._read_tokens(grid, recorded)
            elif not np.array_equal(grid.counts, self._counts.numpy()):
                raise VarError(f"{self._source}: not the same tokens at all layers; capture it again")
            own_weights = np.where(self._flat_counts[:, None], grid.of_tokens(recorded.weights).numpy(), 0)
            own_experts = grid.of_tokens(recorded.experts).numpy()
            experts.append(_padded(own_experts, layout.top_k, shape.experts).astype(np.int16))
            weights.append(_padded(own_weights, layout.top_k, 0).astype(np.float32))
            if recorded.confidence is not None:
                confidence.append(grid.of_tokens(recorded.confidence).float())
        self._experts, self._weights, self._confidence = experts, weights, confidence
        self._owned = {name: self._own(each) for name, each in tables.items()}
        self._caches: OrderedDict[tuple[CacheLimits, Weights], _CacheOf] = OrderedDict()
        self._everywhere = torch.ones((1, len(self._flat_counts)), dtype=torch.bool)
        self._unknown = torch.full((1, 1), UNTRUSTED).expand(len(layout), len(self._flat_counts))

    def _read_tokens(self, grid: Grid, recorded: RecordedDecisions) -> None:
        shape = grid.counts.shape
        self.sequence, self._counts = grid.sequence, torch.from_numpy(grid.counts)
        self._flat_counts = grid.counts.ravel()
        self._ids, self._previous, self._position = (
            grid.of_tokens(values).view(shape) for values in (recorded.token_id, recorded.previous, recorded.position)
        )
        self.decisions = int(grid.counts.sum()) * len(self._layout)

    @property
    def tables(self) -> dict[str, PolicyTables]:
        """The tables by their names."""
        return {name: owned.tables for name, owned in self._owned.items()}

    def owners_agreement(self, name: str) -> list[NDArray[np.float64]]:
        """What the owners of each layer's decisions promise; of those that have an owner with an estimate."""
        owned = self._owned[name]
        found = []
        for layer in range(len(self._layout)):
            owner = owned.rows.owner[layer][(owned.rows.owner[layer] >= 0) & torch.from_numpy(self._flat_counts)]
            promised = owned.tables.agreement[layer][owner].numpy().astype(np.float64)
            found.append(promised[~np.isnan(promised)])
        return found

    def replay(self, name: str, usable: torch.Tensor, settings: PolicySettings) -> Sums:
        """Replay a policy and add up its decisions.

        Parameters
        ----------
        name : str
            Of the tables.
        usable : torch.Tensor
            bool [L, R]: rows that the fast path takes.
        settings : PolicySettings
            Without a shared cache.
        """
        S, T = self._counts.shape
        sums = np.zeros((S, len(self._layout), 3, 4))
        nothing = np.zeros((S * T, 3), np.float32)
        by_table = self._table_scores(name, settings.weights)
        by_cache = None if settings.cache is None else self._cache(settings).scores
        for layer, way in self.ways(name, usable, settings):
            own = np.zeros((S, 3, 4))
            add_up(way, by_table[layer], nothing if by_cache is None else by_cache[layer], T, own)
            sums[:, layer] = own
        return Sums(sums)

    def ways(self, name: str, usable: torch.Tensor, settings: PolicySettings) -> Iterator[tuple[int, NDArray[np.int8]]]:
        """The ways of all decisions, layer after layer, int8 [S * T]; -1 where nothing was recorded."""
        owned, S = self._owned[name], len(self.sequence)
        # One look at a row says both whether it is taken and which it is; the last stands for no owner.
        rows = torch.where(usable, torch.arange(usable.shape[1]), NO_ROW)
        fast_row = torch.nn.functional.pad(rows, (0, 1), value=NO_ROW).gather(1, owned.place)
        found, threshold, known = None, 0.0, None
        if settings.cache is not None:
            found, threshold = self._cache(settings).found, settings.cache.confidence_threshold
            known = self._unknown if settings.budget is None else None
        counts = torch.from_numpy(self._flat_counts)
        # Everything was recorded, as if the router had been asked everywhere.
        step = Step.of(counts, fast_row, S, found, known, threshold, self._everywhere)
        limited = None
        if settings.budget is not None:
            budget = Budget(settings.budget.max_learned_share, settings.budget.window, len(self._layout), S)
            limited = Limited.of(budget, self._flat_counts, found, owned.tables.any_row(owned.rows))
        for layer in range(len(self._layout)):
            sure = self._confidence[layer] if self._confidence else torch.zeros(len(self._flat_counts))

            def route(places: torch.Tensor | None, sure: torch.Tensor = sure) -> torch.Tensor:
                return sure

            if limited is None:
                chosen = choose_ways(layer, step, threshold, route)
            else:
                chosen = choose_limited_ways(layer, step, limited, None, threshold, route)
            yield layer, chosen.way.numpy()

    def _own(self, tables: PolicyTables) -> _Owned:
        flat = (self._ids.flatten(), self._previous.flatten(), self._position.flatten())
        rows = tables.rows(*flat)
        place = torch.where(rows.owner >= 0, rows.owner, tables.present.shape[1])
        return _Owned(tables, rows, place, {})

    def _table_scores(self, name: str, weights: Weights) -> NDArray[np.float32]:
        owned = self._owned[name]
        if weights not in owned.scores:
            row = owned.tables.any_row(owned.rows).numpy()
            scores = np.zeros((*row.shape, 3), np.float32)
            for layer, shape in enumerate(self._layout.layers):
                score_rows(
                    row[layer], owned.tables.experts[layer].numpy(), owned.tables.weights[layer].numpy(),
                    self._experts[layer], self._weights[layer], shape.experts, weights == "live", scores[layer],
                )  # fmt: skip
            owned.scores[weights] = scores
        return owned.scores[weights]

    def _cache(self, settings: PolicySettings) -> _CacheOf:
        assert settings.cache is not None
        if not self._confidence:
            raise VarError(
                f"{self._source}: the trace has no confidence; a policy with a cache needs it, so set "
                "policy.cache.capacity: 0 and tuning.space.capacity: [0]"
            )
        # No sequence has more contexts than tokens, so that larger caches find the same.
        limits, length = settings.cache.limits, self._counts.shape[1]
        least = CacheLimits(limits.context_window, min(limits.capacity, length), min(limits.time_to_live, length))
        key = (least, settings.weights)
        if key not in self._caches:
            self._caches[key] = self._look_up(*key)
            size = self._caches[key].scores.nbytes
            while len(self._caches) > max(_REMEMBERED_BYTES // max(size, 1), 1):
                self._caches.popitem(last=False)
        self._caches.move_to_end(key)
        return self._caches[key]

    def _look_up(self, limits: CacheLimits, weights: Weights) -> _CacheOf:
        S, T = self._counts.shape
        hit, origin = np.zeros((S, T), np.bool_), np.zeros((S, T), np.int64)
        cache: ContextCache | None = None
        for start in range(0, S, _SEQUENCES):
            own = slice(start, min(start + _SEQUENCES, S))
            if cache is None or own.stop - own.start < _SEQUENCES:
                cache = ContextCache(limits, own.stop - own.start)
            else:
                cache.forget()
            ids, position, counts = (part[own].numpy() for part in (self._ids, self._position, self._counts))
            looked_up = cache.look_up(ids, position == 0, counts)
            hit[own] = looked_up.hit
            origin[own] = np.maximum(looked_up.origin + start * T, 0)
        flat_hit, flat_origin = hit.ravel(), origin.ravel()
        scores = np.zeros((len(self._layout), S * T, 3), np.float32)
        for layer, shape in enumerate(self._layout.layers):
            score_origins(
                flat_origin, flat_hit, self._experts[layer], self._weights[layer], shape.experts, weights == "live",
                scores[layer],
            )  # fmt: skip
        return _CacheOf(_found(flat_hit, flat_origin), scores)


def _found(hit: NDArray[np.bool_], origin: NDArray[np.int64]) -> Found:
    """What a cache finds in the first pass over whole sequences: all hits are of entries written in it."""
    here, nothing = torch.from_numpy(hit), torch.zeros(0, dtype=torch.int64)
    entry = torch.zeros(1, dtype=torch.int64).expand(len(hit))
    some = bool(hit.any())
    return Found(here, here, torch.from_numpy(origin), entry, nothing, nothing, some, some)


def _padded(values: NDArray[Any], width: int, empty: int) -> NDArray[Any]:
    """Slots of a layer in those of the whole layout."""
    more = width - values.shape[1]
    return np.pad(values, ((0, 0), (0, more)), constant_values=empty)
