"""How long a pass takes on a device, if each part is bound by arithmetic or by bytes: a roofline.

A pass is put together as ``sum(before_experts + experts_seconds) + after_experts``, which equals
:func:`step_seconds`: what a simulation of offloaded experts adds its stalls to.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from var_core.errors import VarError
from var_core.systems.counts import PartCount, count
from var_core.systems.devices import Device
from var_core.systems.names import EXPERTS
from var_core.systems.shape import ModelShape


def part_seconds(one: PartCount, device: Device) -> float:
    """Seconds of one part: its launch, and what it computes or moves, whichever takes longer."""
    computing = max(one.flops / device.flops, one.bytes / device.memory_bandwidth)
    return device.start(one.part, one.begun) + computing


def step_seconds(counts: Sequence[PartCount], device: Device) -> float:
    """Seconds of one forward pass."""
    return sum(part_seconds(one, device) for one in counts)


def by_part(counts: Sequence[PartCount], device: Device) -> dict[str, float]:
    """Seconds of each part of one forward pass, summed over layers."""
    seconds: dict[str, float] = {}
    for one in counts:
        seconds[one.part] = seconds.get(one.part, 0.0) + part_seconds(one, device)
    return seconds


def before_experts(shape: ModelShape, device: Device, phase: str, batch: int, context: int) -> NDArray[np.float64]:
    """Seconds between the experts of one MoE layer and those of the next, [L]; the first from the start of the pass.

    That is what is left of the layer before (its shared experts, a dense MLP beside them), all layers without experts
    between the two, and attention, gate, choice and dispatch of this one.

    Raises
    ------
    VarError
        As :func:`var_core.systems.counts.count`.
    """
    return _split(shape, device, phase, batch, context)[0][:-1]


def after_experts(shape: ModelShape, device: Device, phase: str, batch: int, context: int) -> float:
    """Seconds from the last experts to the end of the pass; parameters as :func:`before_experts`."""
    return float(_split(shape, device, phase, batch, context)[0][-1])


def experts_seconds(
    shape: ModelShape,
    device: Device,
    phase: str,
    batch: int,
    context: int,
    distinct: Sequence[float] | None = None,
) -> NDArray[np.float64]:
    """Seconds of the experts of each MoE layer, [L]; parameters as :func:`var_core.systems.counts.count`."""
    return _split(shape, device, phase, batch, context, distinct)[1]


def one_expert(shape: ModelShape, device: Device, tokens: float = 1.0) -> NDArray[np.float64]:
    """Seconds of one expert of each MoE layer for so many tokens, [L], without the launch that all of them share.

    Raises
    ------
    VarError
        If the experts' sizes are not known.
    """
    seconds = []
    for layer, experts in enumerate(shape.experts):
        if experts.each is None:
            raise VarError(f"{shape.name}: the size of its experts was not recorded; it needs the model itself")
        moved = shape.expert_bytes(layer) + tokens * experts.each.widths * shape.dtype_bytes
        computed = 2.0 * tokens * experts.each.matrix
        own = device.launches.get(EXPERTS, 0.0)
        seconds.append(own + max(computed / device.flops, moved / device.memory_bandwidth))
    return np.array(seconds)


def overlap_window(
    shape: ModelShape,
    device: Device,
    phase: str,
    batch: int,
    context: int,
    distinct: Sequence[float] | None = None,
) -> NDArray[np.float64]:
    """Seconds in which the experts of the next MoE layer can be fetched unnoticed, [L].

    That is the time from when a layer's experts begin to when those of the next do; after the last layer, to those of
    the first one in the next pass. Parameters as :func:`var_core.systems.counts.count`.
    """
    between, experts = _split(shape, device, phase, batch, context, distinct)
    following = np.append(between[1:-1], between[-1] + between[0])
    return experts + following


def transfer_seconds(moved: float, device: Device) -> float:
    """Seconds until so many bytes have come over the device's link."""
    return device.link_latency + moved / device.link_bandwidth


def expert_transfer(shape: ModelShape, device: Device) -> NDArray[np.float64]:
    """Seconds until one expert of each MoE layer has come over the device's link, [L]."""
    return np.array([transfer_seconds(shape.expert_bytes(layer), device) for layer in range(len(shape.experts))])


def _split(
    shape: ModelShape,
    device: Device,
    phase: str,
    batch: int,
    context: int,
    distinct: Sequence[float] | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Seconds before the experts of each MoE layer and after the last ones, [L + 1]; and of the experts, [L]."""
    places = {place: layer for layer, place in enumerate(shape.moe_places)}
    between, experts = np.zeros(len(places) + 1), np.zeros(len(places))
    reached = 0  # MoE layers whose experts have run
    for one in count(shape, phase, batch, context, distinct):
        seconds = part_seconds(one, device)
        if one.part == EXPERTS and one.layer is not None:
            experts[places[one.layer]] = seconds
            reached = places[one.layer] + 1
        else:
            between[reached] += seconds
    return between, experts
