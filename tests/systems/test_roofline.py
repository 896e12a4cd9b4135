"""The roofline: times by hand, and a pass that is the sum of what a simulation takes."""

import numpy as np
import pytest

from var_core.errors import VarError
from var_core.systems.counts import PartCount, count
from var_core.systems.devices import PRESETS, Device
from var_core.systems.names import PARTS
from var_core.systems.published import published_shape
from var_core.systems.roofline import (
    after_experts,
    before_experts,
    by_part,
    expert_transfer,
    experts_seconds,
    one_expert,
    overlap_window,
    part_seconds,
    step_seconds,
)
from var_core.systems.shape import shape_of_recorded

SLOW = Device("slow", 100.0, 10.0, 2.0, 3.0, 0.5, 1.0, "by hand")
CASES = [("mixtral-8x7b", "decode", 1, 512), ("deepseek-v3", "decode", 8, 512), ("deepseek-v3", "prefill", 2, 128)]


def test_a_part_is_bound_by_arithmetic_or_by_bytes():
    assert part_seconds(PartCount("gate", 0, 1000.0, 20.0, 0.0, 0.0), SLOW) == 0.5 + 10.0
    assert part_seconds(PartCount("gate", 0, 100.0, 20.0, 6.0, 4.0), SLOW) == 0.5 + 3.0


@pytest.mark.parametrize(("name", "phase", "batch", "context"), CASES)
def test_a_pass_is_the_sum_of_its_parts(name, phase, batch, context):
    shape, device = published_shape(name), PRESETS["h100-sxm"]
    counts = count(shape, phase, batch, context)
    whole = step_seconds(counts, device)
    parts = by_part(counts, device)
    assert set(parts) <= set(PARTS) and sum(parts.values()) == pytest.approx(whole, rel=1e-12)
    before = before_experts(shape, device, phase, batch, context)
    experts = experts_seconds(shape, device, phase, batch, context)
    after = after_experts(shape, device, phase, batch, context)
    assert before.shape == experts.shape == (len(shape.experts),)
    assert before.sum() + experts.sum() + after == pytest.approx(whole, rel=1e-12)
    window = overlap_window(shape, device, phase, batch, context)
    np.testing.assert_allclose(window[:-1], experts[:-1] + before[1:])
    assert window.sum() == pytest.approx(whole, rel=1e-12)  # all of a pass is a window for one layer or another


def test_layers_without_experts_come_before_the_next_experts():
    shape, device = published_shape("deepseek-v3"), PRESETS["h100-sxm"]
    before = before_experts(shape, device, "decode", 1, 512)
    dense = [part_seconds(one, device) for one in count(shape, "decode", 1, 512) if one.layer in (0, 1, 2)]
    assert before[0] > sum(dense)
    assert before[0] - before[1] > 0.8 * sum(dense)


def test_shared_experts_run_after_those_of_their_layer():
    shape, device = published_shape("deepseek-v3"), PRESETS["h100-sxm"]
    counts = count(shape, "decode", 1, 512)
    last = [one for one in counts if one.layer == 60 and one.part == "shared_experts"]
    head = [one for one in counts if one.part == "lm_head"]
    after = sum(part_seconds(one, device) for one in (*last, *head))
    assert after_experts(shape, device, "decode", 1, 512) == pytest.approx(after, rel=1e-12)


@pytest.mark.parametrize("distinct", [2.0, 6.0])
def test_experts_are_so_many_times_one_expert(distinct):
    shape, device = published_shape("olmoe-1b-7b"), PRESETS["rtx-4090"]
    together = experts_seconds(shape, device, "decode", 3, 512, distinct=[distinct] * 16)
    each = one_expert(shape, device, tokens=3 * 8 / distinct)
    np.testing.assert_allclose(together, device.launch + distinct * each)


def test_an_expert_over_the_link():
    shape, device = published_shape("mixtral-8x7b"), PRESETS["h100-sxm"]
    assert expert_transfer(shape, device)[0] == pytest.approx(10e-6 + 352_321_536 / 64e9)


def test_what_was_recorded_elsewhere_has_transfers_but_no_times():
    shape = shape_of_recorded("elsewhere", 2, 8, 2, [10, 20])
    assert expert_transfer(shape, SLOW).tolist() == [8.0, 13.0]
    with pytest.raises(VarError, match="elsewhere: the size of its experts was not recorded"):
        one_expert(shape, SLOW)
    with pytest.raises(VarError, match="elsewhere: was recorded elsewhere"):
        before_experts(shape, SLOW, "decode", 1, 1)
