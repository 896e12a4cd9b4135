"""How fast devices run a model's passes, for a replay that follows its loads."""

from collections.abc import Sequence

import numpy as np

from var_core.systems.devices import Device
from var_core.systems.prefetching import Pace
from var_core.systems.roofline import after_experts, before_experts, expert_transfer, one_expert
from var_core.systems.shape import ModelShape
from var_core.systems.stream import Stream


def pace_of(shape: ModelShape, devices: Sequence[Device], stream: Stream) -> Pace | None:
    """The pace of devices on a stream's passes; None where the model's shape is not known.

    Attention is that of the mean place in a sequence, and an expert's work that of the mean number of its tokens.
    """
    if shape.recorded:
        return None
    accesses, counted = stream.accesses, stream.counted[stream.accesses.unit]
    own = stream.decisions.of(stream.counted_tokens)
    tokens, needed = len(own), int(counted[accesses.step // accesses.layers].sum())
    slots = int((own.experts < own.width).sum())
    passes = max(int(counted.sum()), 1)
    mean_tokens = max(round(tokens / passes), 1)
    if stream.phase == "prefill":
        batch, context = 1, mean_tokens
    else:
        batch, context = mean_tokens, max(int(own.place.mean()), 1)
    each = slots / max(needed, 1)
    rows = []
    for device in devices:
        shared_launch = 0.0 if device.launches else device.launch
        before = before_experts(shape, device, stream.phase, batch, context) + shared_launch
        rows.append(
            (
                before,
                one_expert(shape, device, each),
                after_experts(shape, device, stream.phase, batch, context),
                expert_transfer(shape, device),
            )
        )
    before, expert, after, load = (np.array(each, np.float64) for each in zip(*rows, strict=True))
    return Pace(before, expert, after, load)
