"""The table `break_even`: for a run's own routing and for known architectures, on every device, whether it pays."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from var_core.config.systems import CostsConfig
from var_core.systems.break_even import Layer, wrong_missing
from var_core.systems.counts import count, expected_distinct
from var_core.systems.devices import Device
from var_core.systems.machine import MACHINE
from var_core.systems.names import DECODE, GATE, TOP_K
from var_core.systems.predictions import PREDICTORS
from var_core.systems.roofline import (
    after_experts,
    before_experts,
    expert_transfer,
    experts_seconds,
    part_seconds,
)
from var_core.systems.shape import ModelShape
from var_core.systems.simulate import SHARED, WARM

BREAK_EVEN = pa.schema(
    [
        pa.field("architecture", pa.string(), nullable=False),
        pa.field("case", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("device", pa.string(), nullable=False),
        pa.field("batch", pa.int32(), nullable=False),
        pa.field("policy", pa.string()),
        pa.field("capacity_share", pa.float64()),
        pa.field("hit_rate", pa.float64()),
        pa.field("recall", pa.float64()),
        pa.field("wrong_missing", pa.float64(), nullable=False),
        pa.field("distinct", pa.float64(), nullable=False),
        pa.field("before_seconds", pa.float64(), nullable=False),
        pa.field("expert_seconds", pa.float64(), nullable=False),
        pa.field("gate_seconds", pa.float64(), nullable=False),
        pa.field("expert_bytes", pa.float64(), nullable=False),
        pa.field("link_bandwidth", pa.float64(), nullable=False),
        pa.field("link_latency", pa.float64(), nullable=False),
        pa.field("window_seconds", pa.float64(), nullable=False),
        pa.field("stall_seconds", pa.float64(), nullable=False),
        pa.field("deciding_seconds", pa.float64(), nullable=False),
        pa.field("break_even_recall", pa.float64()),
        pa.field("speed_up_modelled", pa.float64()),
        pa.field("ceiling", pa.float64()),
        pa.field("speed_up_free", pa.float64()),
        pa.field("speed_up", pa.float64()),
        pa.field("speed_up_low", pa.float64()),
        pa.field("speed_up_high", pa.float64()),
        pa.field("verdict", pa.string()),
    ]
)
"""A row an architecture, case, device, batch, policy and size: seconds are of one layer of one pass."""

RESIDENT, OFFLOADED = "resident", "offloaded"
REPLAYED, ASSUMED, PROFILED, RAN = "replayed", "assumed", "profiled", "run"
HIT_RATES = (0.0, 0.5, 0.8, 0.9, 0.95)
"""Hit rates that known architectures are looked at with."""

PAYS, EVEN, COSTS, UNSURE = "pays", "about even", "does not pay", "not sure"
SMALLEST = 0.01
"""A difference in speed below this share is about even, however sure it is."""
ABSTAINING = 0.9
"""Who predicts fewer experts than this share of those needed is left out of the closed form's condition."""
FEWEST_ROUNDS = 6
"""Rounds whose slowest and fastest have the median between them with a probability of 0.95."""
WIDEST = 0.05
"""An interval that holds 1 and is wider than this says nothing."""


def verdict(speed_up: float, low: float | None, high: float | None) -> str:
    """What a speed-up with its interval says; without an interval, nothing."""
    if low is None or high is None:
        return UNSURE
    if low > 1 and speed_up > 1 + SMALLEST:
        return PAYS
    if high < 1 and speed_up < 1 - SMALLEST:
        return COSTS
    return UNSURE if high - low > WIDEST else EVEN


def layer_of(
    shape: ModelShape, device: Device, batch: int, context: int, hit_rate: float, deciding: float,
    distinct: float | None = None, wrong: float = 1.0,
) -> tuple[Layer, dict[str, float]]:  # fmt: skip
    """The mean layer of a decoding pass, and what it is made of.

    Parameters
    ----------
    shape : ModelShape
    device : Device
    batch, context : int
    hit_rate : float
        Of the cache alone; 1: all experts are in memory.
    deciding : float
        Seconds a pass that predicting takes.
    distinct : float, optional
        Experts that a layer needs; what is expected of even loads, if not given.
    wrong : float, optional
        Share of the wrong predictions that the cache does not hold.
    """
    experts, layers = shape.experts[0], len(shape.experts)
    needed = expected_distinct(experts.number, experts.top_k, batch) if distinct is None else distinct
    counted = count(shape, DECODE, batch, context, [needed] * layers)
    # What lies behind the last layer passes by while the first layer of the next pass could be loaded.
    before = before_experts(shape, device, DECODE, batch, context).sum()
    before += after_experts(shape, device, DECODE, batch, context)
    gate = sum(part_seconds(one, device) for one in counted if one.part in (GATE, TOP_K))
    computing = experts_seconds(shape, device, DECODE, batch, context, [needed] * layers).mean()
    load = float(expert_transfer(shape, device).mean())
    layer = Layer(
        float(before / layers), float(computing), load, needed, hit_rate, wrong, deciding / layers, gate / layers
    )
    return layer, {
        "distinct": needed,
        "before_seconds": before / layers,
        "expert_seconds": float(computing),
        "gate_seconds": gate / layers,
        "expert_bytes": float(np.mean([shape.expert_bytes(place) for place in range(layers)])),
        "link_bandwidth": device.link_bandwidth,
        "link_latency": device.link_latency,
        "window_seconds": float(layer.window),
        "stall_seconds": float(layer.stall),
        "wrong_missing": wrong,
        "deciding_seconds": deciding / layers,
    }


def assumed_rows(
    shape: ModelShape, devices: Sequence[Device], config: CostsConfig, predicting: float, deciding: float
) -> Iterator[dict[str, Any]]:
    """What recall prefetching would need, of a known architecture whose routing nobody has replayed here.

    Parameters
    ----------
    shape : ModelShape
    devices : sequence of Device
    config : CostsConfig
    predicting, deciding : float
        Seconds a layer that predicting its experts takes, and that a policy's decision does.
    """
    layers = len(shape.experts)
    for device in devices:
        for batch in config.batches:
            for hit_rate in HIT_RATES:
                layer, parts = layer_of(shape, device, batch, config.contexts[0], hit_rate, predicting * layers)
                yield _row(shape.name, OFFLOADED, ASSUMED, device.name, batch, parts) | {
                    "hit_rate": hit_rate,
                    "break_even_recall": float(layer.break_even_recall()),
                }
            layer, parts = layer_of(shape, device, batch, config.contexts[0], 1.0, deciding * layers)
            yield _row(shape.name, RESIDENT, ASSUMED, device.name, batch, parts) | _resident(layer)


def replayed_rows(
    shape: ModelShape,
    devices: Sequence[Device],
    simulations: pa.Table,
    predicting: Mapping[str, Sequence[float]],
    context: int,
) -> Iterator[dict[str, Any]]:
    """What predictors came to on the run's own routing, on every device."""
    by_name = {device.name: device for device in devices}
    rows = [
        row
        for row in simulations.to_pylist()
        if row["phase"] == DECODE and row["start"] == WARM and row["sharing"] == SHARED and row["device"] in by_name
    ]
    plain = {_cache(row): row for row in rows if row["policy"] == "lru"}
    for row in rows:
        if row["policy"] not in PREDICTORS or _cache(row) not in plain:
            continue
        device, alone = by_name[row["device"]], plain[_cache(row)]
        # On the host, and so as on the machine of the run wherever the model is.
        once, each = predicting.get(row["policy"], (0.0, 0.0))
        deciding = once + each * row["tokens"] / row["passes"]
        needed = row["accesses"] / (row["passes"] * len(shape.experts))
        batch = max(round(row["tokens"] / row["passes"]), 1)
        right, named = row["access_recall"], row["predicted_an_access"]
        wrong = wrong_missing(right, alone["hit_rate"], row["prefetched"] / row["accesses"])
        layer, parts = layer_of(shape, device, batch, context, alone["hit_rate"], deciding, needed, wrong)
        # The replay knows nothing of the time that predicting takes.
        slower = row["seconds"] / (row["seconds"] + row["passes"] * deciding)
        speed_up = row["speed_up"] * slower
        low, high = (None if row[end] is None else row[end] * slower for end in ("speed_up_low", "speed_up_high"))
        yield (
            _row(shape.name, OFFLOADED, REPLAYED, device.name, row["batch"], parts)
            | {
                "policy": row["policy"],
                "capacity_share": row["capacity_share"],
                "hit_rate": alone["hit_rate"],
                "recall": row["recall"],
                # The form predicts as many experts as are needed; of who abstains it says nothing.
                "break_even_recall": float(layer.break_even_recall()) if named > ABSTAINING else None,
                "speed_up_modelled": float(layer.speed_up(right)),
                "speed_up": speed_up,
                "speed_up_free": row["speed_up"],
                "speed_up_low": low,
                "speed_up_high": high,
                "verdict": verdict(speed_up, low, high),
            }
        )


def ran_rows(
    shape: ModelShape, machine: Device, offloaded: Sequence[Mapping[str, Any]], context: int
) -> Iterator[dict[str, Any]]:
    """What prefetching came to where the model was really run with offloaded experts."""
    decoded = {row["arm"]: row for row in offloaded if row["phase"] == DECODE and row["capacity"] is not None}
    alone = decoded.pop("lru", None)
    if alone is None:
        return
    for name, row in decoded.items():
        _, parts = layer_of(shape, machine, row["batch"], context, alone["hit_rate"], 0.0)
        speed = row["tokens_per_second"] / alone["tokens_per_second"]
        # Of two intervals the ends that are furthest apart, so that nothing is claimed too early.
        low = high = None
        if min(row["rounds"], alone["rounds"]) >= FEWEST_ROUNDS:
            low = row["tokens_per_second_low"] / alone["tokens_per_second_high"]
            high = row["tokens_per_second_high"] / alone["tokens_per_second_low"]
        number = sum(experts.number for experts in shape.experts)
        yield _row(shape.name, OFFLOADED, RAN, machine.name, row["batch"], parts) | {
            "policy": name,
            "capacity_share": row["capacity"] / number,
            "hit_rate": alone["hit_rate"],
            "speed_up": speed,
            "speed_up_low": low,
            "speed_up_high": high,
            "verdict": verdict(speed, low, high),
        }


def resident_rows(
    shape: ModelShape,
    devices: Sequence[Device],
    batches: Sequence[int],
    context: int,
    deciding: float,
    share: float | None,
    profiled: Mapping[int, tuple[float, float, float]],
) -> Iterator[dict[str, Any]]:
    """What a policy saves where all experts are in memory: as modelled, and as profiled on this machine.

    Parameters
    ----------
    share : float or None
        Of the decisions, those that the policy makes in the router's place; None without a policy.
    profiled : mapping
        Batch -> speed-up of the whole pass and its interval, on this machine.
    """
    for device in devices:
        for batch in sorted({*batches, *(profiled if device.name == MACHINE else ())}):
            layer, parts = layer_of(shape, device, batch, context, 1.0, deciding)
            row = _row(shape.name, RESIDENT, REPLAYED, device.name, batch, parts) | _resident(layer, share or 1.0)
            if share is None:
                yield row | {"speed_up_modelled": None, "verdict": None}
                continue
            if device.name == MACHINE and batch in profiled:
                speed, low, high = profiled[batch]
                row |= {"source": PROFILED, "speed_up": speed, "speed_up_low": low, "speed_up_high": high}
                row["verdict"] = verdict(speed, low, high)
            yield row | {"policy": "var", "recall": share}


def _resident(layer: Layer, share: float = 1.0) -> dict[str, Any]:
    speed = float(layer.plain / layer.deciding_beforehand(share))
    ceiling = float(layer.plain / replace(layer, deciding=0.0).deciding_beforehand(1.0))
    known = {"speed_up_modelled": speed, "ceiling": ceiling, "verdict": verdict(speed, speed, speed)}
    return {"hit_rate": 1.0, "capacity_share": 1.0, **known}


def _cache(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("batch", "recorded", "device", "capacity_share"))


def _row(
    architecture: str, case: str, source: str, device: str, batch: int, parts: Mapping[str, float]
) -> dict[str, Any]:
    named = {"architecture": architecture, "case": case, "source": source, "device": device, "batch": batch}
    return dict.fromkeys(field.name for field in BREAK_EVEN) | named | dict(parts)


def break_even_table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Rows as :data:`BREAK_EVEN`."""
    return pa.Table.from_pylist([_plain(row) for row in rows], schema=BREAK_EVEN)


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: None if isinstance(value, float) and np.isnan(value) else value for name, value in row.items()}
