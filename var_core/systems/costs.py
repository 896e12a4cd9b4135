"""The table of counted costs: operations, bytes and modelled seconds of each part, by model, device, phase and size."""

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from var_core.systems.counts import PartCount, amdahl_ceiling, count
from var_core.systems.devices import Device
from var_core.systems.names import GATE, PARTS, PHASES, TOP_K
from var_core.systems.roofline import part_seconds
from var_core.systems.shape import ModelShape

GATE_AND_TOP_K = "gate+top_k"
"""Name of the row for what a policy can skip at most: the gate and the choice after it."""

COSTS = pa.schema(
    [
        pa.field("model", pa.string(), nullable=False),
        pa.field("device", pa.string(), nullable=False),
        pa.field("phase", pa.string(), nullable=False),
        pa.field("batch", pa.int32(), nullable=False),
        pa.field("context", pa.int32(), nullable=False),
        pa.field("part", pa.string(), nullable=False),
        pa.field("flops", pa.float64(), nullable=False),
        pa.field("weight_bytes", pa.float64(), nullable=False),
        pa.field("activation_bytes", pa.float64(), nullable=False),
        pa.field("key_value_bytes", pa.float64(), nullable=False),
        pa.field("seconds", pa.float64(), nullable=False),
        pa.field("share", pa.float64(), nullable=False),
        pa.field("ceiling", pa.float64(), nullable=False),
        pa.field("flops_share", pa.float64(), nullable=False),
        pa.field("flops_ceiling", pa.float64(), nullable=False),
        pa.field("fits", pa.bool_(), nullable=False),
    ]
)
"""One row for each model, device, phase, batch, context and part of a forward pass, all experts resident.

A row ``gate+top_k`` repeats the sum of those two, so that rows of parts are to be summed without it. ``ceiling`` is the
most that the pass speeds up if the part costs nothing, by seconds; ``flops_ceiling`` by operations; ``fits`` whether
all weights and the cache of these sequences go into the device's memory (else the seconds are of one that they fit).
"""


def count_costs(
    shapes: Sequence[ModelShape],
    devices: Sequence[Device],
    batches: Sequence[int],
    contexts: Sequence[int],
    phases: Sequence[str] = PHASES,
) -> pa.Table:
    """Count and model all combinations.

    Parameters
    ----------
    shapes : sequence of ModelShape
        Of the models.
    devices : sequence of Device
        Where they would run.
    batches, contexts : sequence of int
        Sequences at once, and tokens of each: of the prompt, or before the one that is decoded.
    phases : sequence of str, optional
        Of :data:`var_core.systems.names.PHASES`.

    Returns
    -------
    pyarrow.Table
        Of schema :data:`COSTS`.

    Raises
    ------
    VarError
        As :func:`var_core.systems.counts.count`.
    """
    rows = [
        {"model": shape.name, "device": device.name, "phase": phase, "batch": batch, "context": context, **row}
        for shape in shapes
        for phase in phases
        for batch in batches
        for context in contexts
        for counts in (count(shape, phase, batch, context),)
        for device in devices
        for row in _rows(counts, device, fits(shape, device, batch, context))
    ]
    return pa.Table.from_pylist(rows, schema=COSTS)


def fits(shape: ModelShape, device: Device, batch: int, context: int) -> bool:
    """Whether all weights, and what attention caches of the sequences, go into a device's memory."""
    cached = sum(
        min(context, one.window or context) * one.key_value_width + one.state_width
        for layer in shape.layers
        for one in layer.mixing
    )
    return bool(shape.weight_bytes + batch * cached * shape.dtype_bytes <= device.memory_bytes)


def _rows(counts: Sequence[PartCount], device: Device, whole_fits: bool) -> Iterator[dict[str, Any]]:
    present = {one.part for one in counts}
    groups = {part: (part,) for part in PARTS if part in present} | {GATE_AND_TOP_K: (GATE, TOP_K)}

    def seconds_of(one: PartCount) -> float:
        return part_seconds(one, device)

    for name, parts in groups.items():
        mine = [one for one in counts if one.part in parts]
        ceiling, flops_ceiling = amdahl_ceiling(counts, parts, seconds_of), amdahl_ceiling(counts, parts)
        yield {
            "part": name,
            "flops": sum(one.flops for one in mine),
            "weight_bytes": sum(one.weight_bytes for one in mine),
            "activation_bytes": sum(one.activation_bytes for one in mine),
            "key_value_bytes": sum(one.key_value_bytes for one in mine),
            "seconds": sum(seconds_of(one) for one in mine),
            "share": 1.0 - 1.0 / ceiling,
            "ceiling": ceiling,
            "flops_share": 1.0 - 1.0 / flops_ceiling,
            "flops_ceiling": flops_ceiling,
            "fits": whole_fits,
        }
