"""Caches of experts of every size, replayed on a trace: the table `cache_simulations`."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from var_core.config.systems import CachesConfig
from var_core.errors import VarError
from var_core.hypotheses.resampling import bootstrap_weights, generator, ratio_intervals
from var_core.progress import Progress
from var_core.statistics.compiled import Doubles, Wholes
from var_core.systems.accesses import Decisions, phases_of
from var_core.systems.devices import Device
from var_core.systems.pace import pace_of
from var_core.systems.predictions import (
    PREDICTORS,
    Chosen,
    Knowledge,
    precision,
    predict,
    predicted_passes,
    recall,
)
from var_core.systems.prefetching import Pace, Predicted, replay_prefetching
from var_core.systems.replay import RULES, Capacity, replay
from var_core.systems.shape import ModelShape
from var_core.systems.stream import Stream, streams_of

CACHE_SIMULATIONS = pa.schema(
    [
        pa.field("phase", pa.string(), nullable=False),
        pa.field("batch", pa.int32(), nullable=False),
        pa.field("recorded", pa.bool_(), nullable=False),
        pa.field("start", pa.string(), nullable=False),
        pa.field("sharing", pa.string(), nullable=False),
        pa.field("experts_a_layer", pa.float64(), nullable=False),
        pa.field("capacity_share", pa.float64(), nullable=False),
        pa.field("capacity_bytes", pa.int64()),
        pa.field("policy", pa.string(), nullable=False),
        pa.field("device", pa.string()),
        pa.field("tokens", pa.int64(), nullable=False),
        pa.field("accesses", pa.int64(), nullable=False),
        pa.field("hits", pa.int64(), nullable=False),
        pa.field("hit_rate", pa.float64(), nullable=False),
        pa.field("hit_rate_low", pa.float64()),
        pa.field("hit_rate_high", pa.float64()),
        pa.field("loads", pa.int64(), nullable=False),
        pa.field("prefetched", pa.int64(), nullable=False),
        pa.field("useless", pa.int64(), nullable=False),
        pa.field("loads_an_access", pa.float64(), nullable=False),
        pa.field("moved_bytes", pa.int64()),
        pa.field("recall", pa.float64()),
        pa.field("precision", pa.float64()),
        pa.field("access_recall", pa.float64()),
        pa.field("predicted_an_access", pa.float64()),
        pa.field("late", pa.int64()),
        pa.field("stall_seconds", pa.float64()),
        pa.field("seconds", pa.float64()),
        pa.field("passes", pa.int64()),
        pa.field("speed_up", pa.float64()),
        pa.field("speed_up_low", pa.float64()),
        pa.field("speed_up_high", pa.float64()),
    ]
)
"""A row a cache, policy and device: see docs/reference/tables.md."""

_SCORES = ("recall", "precision", "access_recall", "predicted_an_access")
WARM, COLD = "warm", "cold"
SHARED, PER_LAYER = "shared", "per_layer"


@dataclass(frozen=True)
class Setting:
    """Where a trace is replayed.

    Attributes
    ----------
    expert_bytes : numpy.ndarray or None
        int64 [L]; None where they are not known, and all experts count alike.
    heat : numpy.ndarray or None
        int64 [L * E]: uses of each expert in other text.
    knowledge : Knowledge
    shape : ModelShape
    devices : tuple of Device
        D of them.
    """

    expert_bytes: Wholes | None
    heat: Wholes | None
    knowledge: Knowledge
    shape: ModelShape
    devices: tuple[Device, ...]


@dataclass(frozen=True)
class _Counted:
    """What a replay comes to, by unit, [U]; times by device too, [D, U]."""

    hits: Wholes
    loads: Wholes
    moved: Wholes
    prefetched: Wholes
    useless: Wholes
    late: Wholes
    stall: Doubles
    seconds: Doubles


def policies_of(decisions: Decisions, setting: Setting, config: CachesConfig) -> tuple[str, ...]:
    """Policies that can be replayed.

    Raises
    ------
    VarError
        If one that the configuration names lacks what it needs.
    """
    lacking: dict[str, str] = {}
    if setting.heat is None:
        lacking["static"] = "counts of experts' uses in other text, and there are none"
    for predictor in PREDICTORS:
        reason = setting.knowledge.lacks(predictor, decisions)
        if reason is not None:
            lacking[predictor] = reason
    if config.policies is None:
        return tuple(name for name in (*RULES, *PREDICTORS) if name not in lacking)
    for name in config.policies:
        if name in lacking:
            raise VarError(f"{decisions.source}: systems.caches.policies: {name} needs {lacking[name]}; leave it out")
    return config.policies


def simulate(decisions: Decisions, groups: Wholes, top_k: int, setting: Setting, config: CachesConfig) -> pa.Table:
    """Replay a trace through caches of every size and policy.

    Parameters
    ----------
    decisions : Decisions
    groups : numpy.ndarray
        int64: group of each document, by its number.
    top_k : int
    setting : Setting
    config : CachesConfig

    Returns
    -------
    pyarrow.Table
        :data:`CACHE_SIMULATIONS`

    Raises
    ------
    VarError
        If a policy lacks what it needs, or a cache is smaller than k experts.
    """
    if not (phases_of(decisions) != "").all():
        decisions = decisions.some_sequences(config.max_sequences, config.seed)
    policies = policies_of(decisions, setting, config)
    layers, width = decisions.experts.shape[1], decisions.width
    sizes = setting.expert_bytes if setting.expert_bytes is not None else np.ones(layers, np.int64)
    named = _caches(config, sizes, width, top_k, known=setting.expert_bytes is not None)
    # A size in MiB may be one of the others, and the caches of one MoE layer are shared by all there are.
    caches = list({(each.shared, each.total): each for each in named}.values())
    rows: list[dict[str, Any]] = []
    streams = list(streams_of(decisions, groups, config.batches))
    with Progress(len(streams) * len(policies), "replay", "cache simulations") as progress:
        for stream in streams:
            table = _Rows(stream, sizes, setting, config, width)
            for policy in policies:
                rows.extend(table.of(policy, caches))
                progress.advance(1)
    columns = {field.name: [row[field.name] for row in rows] for field in CACHE_SIMULATIONS}
    return pa.table(columns, schema=CACHE_SIMULATIONS)


def _caches(config: CachesConfig, sizes: Wholes, width: int, top_k: int, known: bool) -> Iterator[Capacity]:
    """Caches of each layer and shared ones, of the same sizes, and those that are asked for in MiB."""
    numbers = np.unique(np.linspace(top_k, width, min(config.most_sizes, width - top_k + 1)).round().astype(np.int64))
    for number in numbers.tolist():
        yield Capacity.per_layer(number, sizes)
        yield Capacity.of_all(int(number * sizes.sum()), sizes)
    if config.sizes_mib and not known:
        raise VarError("systems.caches.sizes_mib: the bytes of an expert are not known; set the model's expert_bytes")
    for mib in config.sizes_mib:
        capacity = Capacity.of_all(int(mib * 2**20), sizes)
        capacity.check(top_k)
        yield capacity


class _Rows:
    """Makes the rows of one stream."""

    def __init__(self, stream: Stream, sizes: Wholes, setting: Setting, config: CachesConfig, width: int) -> None:
        self._stream, self._sizes, self._setting, self._config = stream, sizes, setting, config
        self._everything = int(sizes.sum()) * width
        self._next_uses = {cold: stream.accesses.next_uses(cold) for cold in (False, True)}
        self._plain: dict[tuple[int, str], Doubles] = {}
        self._pace = pace_of(setting.shape, setting.devices, stream) if setting.devices else None
        clusters = int(stream.cluster.max()) + 1
        self._weights = bootstrap_weights(clusters, config.bootstrap, generator(config.seed, "caches"))
        accesses = stream.accesses
        layer = accesses.experts // accesses.experts_of_layer
        unit = accesses.unit[accesses.step // accesses.layers]
        self._by_layer = np.bincount(unit * accesses.layers + layer, minlength=accesses.units * accesses.layers)
        self._by_layer = self._by_layer.reshape(accesses.units, accesses.layers)
        self._per_unit = self._by_layer.sum(axis=1)
        self._passes = np.bincount(accesses.unit, minlength=accesses.units)
        self._tokens = int(accesses.tokens[stream.counted[accesses.unit]].sum())

    def of(self, policy: str, caches: Sequence[Capacity]) -> Iterator[dict[str, Any]]:
        """Rows of a policy."""
        scores: dict[str, float | None] = dict.fromkeys(_SCORES)
        predicted = None
        if policy in PREDICTORS:
            # Before a whole prompt is computed, nearly all experts are needed; there is nothing to predict.
            if self._stream.phase == "prefill":
                return
            chosen = self._predict(policy)
            accesses = self._stream.accesses
            predicted = predicted_passes(chosen, self._stream.pass_of_token, accesses.passes, accesses.experts_of_layer)
            scores = self._scores(chosen, predicted)
        for number, capacity in enumerate(caches):
            for start in (WARM, COLD):
                counted = self._replayed(policy, predicted, capacity, start == COLD)
                key = (number, start)
                if key not in self._plain:
                    plain = policy == "lru" or self._pace is None
                    self._plain[key] = (
                        counted if plain else self._replayed("lru", None, capacity, start == COLD)
                    ).seconds
                yield from self._rows(policy, capacity, start, counted, self._plain[key], scores)

    def _predict(self, policy: Any) -> Chosen:
        """Predictions for the tokens that are decoded, in the order of the passes."""
        own = self._stream.decisions
        # Predictors follow each sequence; of a batch, passes have their tokens side by side.
        order = np.lexsort((own.place, own.sequence))
        found = predict(policy, own.of(order), self._setting.knowledge, self._config.seed)
        chosen = np.empty_like(found)
        chosen[order] = found
        chosen[~self._stream.decoded] = own.width
        return chosen

    def _scores(self, chosen: Chosen, predicted: Predicted) -> dict[str, float | None]:
        """How good predictions are, token by token, and for the distinct experts of passes."""
        tokens, accesses = self._stream.counted_tokens, self._stream.accesses
        own, counted = self._stream.decisions.of(tokens), self._stream.counted
        items = accesses.layers * accesses.experts_of_layer
        steps = np.arange(len(accesses.offsets) - 1)
        named = np.repeat(steps, np.diff(predicted.offsets)) * items + predicted.experts
        needed = accesses.step * items + accesses.experts
        own_named, own_needed = (
            each[counted[accesses.unit[each // items // accesses.layers]]] for each in (named, needed)
        )
        values = {
            "recall": recall(chosen[tokens], own),
            "precision": precision(chosen[tokens], own),
            "access_recall": float(np.isin(own_needed, own_named).mean()),
            "predicted_an_access": len(own_named) / len(own_needed),
        }
        return {name: None if np.isnan(value) else value for name, value in values.items()}

    def _replayed(self, policy: str, predicted: Predicted | None, capacity: Capacity, cold: bool) -> _Counted:
        accesses, pace = self._stream.accesses, self._pace
        devices = 0 if pace is None else len(pace.after)
        if predicted is not None:
            own = pace or Pace(*(np.zeros((0, accesses.layers)),) * 2, np.zeros(0), np.zeros((0, accesses.layers)))
            timed = replay_prefetching(accesses, predicted, capacity, cold, own)
            return _Counted(
                timed.hits, timed.loads, timed.moved, timed.prefetched, timed.useless,
                timed.late, timed.stall, timed.seconds,
            )  # fmt: skip
        found = replay(accesses, policy, capacity, cold, self._setting.heat, self._next_uses[cold])  # type: ignore[arg-type]
        nothing, stall = np.zeros_like(found.hits), np.zeros((devices, accesses.units))
        seconds = np.zeros_like(stall)
        if pace is not None:
            stall = pace.load @ found.loads_by_layer.T
            seconds = (
                stall + (pace.before.sum(axis=1) + pace.after)[:, None] * self._passes + pace.expert @ self._by_layer.T
            )
        return _Counted(
            found.hits, found.loads, found.moved, nothing, nothing,
            np.zeros_like(stall, dtype=np.int64), stall, seconds,
        )  # fmt: skip

    def _rows(
        self,
        policy: str,
        capacity: Capacity,
        start: str,
        counted: _Counted,
        plain: Doubles,
        scores: Mapping[str, float | None],
    ) -> Iterator[dict[str, Any]]:
        own, known = self._stream.counted, self._setting.expert_bytes is not None
        accesses = int(self._per_unit[own].sum())
        low, high = self._interval(counted.hits, self._per_unit)
        held = capacity.total
        hits, loads, prefetched = (int(each[own].sum()) for each in (counted.hits, counted.loads, counted.prefetched))
        row = {
            "phase": self._stream.phase,
            "batch": self._stream.batch,
            "recorded": self._stream.recorded,
            "start": start,
            "sharing": SHARED if capacity.shared else PER_LAYER,
            "experts_a_layer": held / int(self._sizes.sum()),
            "capacity_share": held / self._everything,
            "capacity_bytes": held if known else None,
            "policy": policy,
            "tokens": self._tokens,
            "accesses": accesses,
            "hits": hits,
            "hit_rate": hits / accesses,
            "hit_rate_low": low,
            "hit_rate_high": high,
            "loads": loads,
            "prefetched": prefetched,
            "useless": int(counted.useless[own].sum()),
            "loads_an_access": (loads + prefetched) / accesses,
            "moved_bytes": int(counted.moved[own].sum()) if known else None,
            **scores,
        }
        if self._pace is None:
            timed = (
                "device",
                "late",
                "stall_seconds",
                "seconds",
                "passes",
                "speed_up",
                "speed_up_low",
                "speed_up_high",
            )
            yield row | dict.fromkeys(timed)
            return
        for number, device in enumerate(self._setting.devices):
            yield row | {
                "device": device.name,
                "late": int(counted.late[number, own].sum()),
                "stall_seconds": float(counted.stall[number, own].sum()),
                "seconds": float(counted.seconds[number, own].sum()),
                "passes": int(self._passes[own].sum()),
                "speed_up": float(plain[number, own].sum() / counted.seconds[number, own].sum()),
                **dict(
                    zip(
                        ("speed_up_low", "speed_up_high"),
                        self._interval(plain[number], counted.seconds[number]),
                        strict=True,
                    )
                ),
            }

    def _interval(self, parts: Wholes | Doubles, wholes: Wholes | Doubles) -> tuple[float | None, float | None]:
        own, clusters = self._stream.counted, self._weights.shape[1]
        sums = [
            np.bincount(self._stream.cluster[own], values[own], minlength=clusters)[:, None].astype(np.float64)
            for values in (parts, wholes)
        ]
        low, high = ratio_intervals(sums[0], sums[1], self._weights, self._config.confidence)[:, 0]
        return (None, None) if np.isnan(low) else (float(low), float(high))
