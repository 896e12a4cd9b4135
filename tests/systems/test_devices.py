"""Devices: presets, own ones, and what is refused."""

import re

import pytest

from var_core.errors import VarError
from var_core.systems.devices import PRESETS, Device, device_named

OWN = {
    **{"flops": 1e12, "memory_bandwidth": 1e11, "link_bandwidth": 1e9},
    **{"link_latency": 0, "launch": 1e-6, "memory_bytes": 4e9},
}


def test_presets_are_whole():
    assert set(PRESETS) == {"h100-sxm", "a100-80gb", "rtx-4090", "laptop-nvme", "phone-ufs"}
    for name, device in PRESETS.items():
        assert device.name == name and device_named(name) is device
        assert device.link_bandwidth < device.memory_bandwidth and len(device.source) > 40


def test_a_preset_can_be_changed_and_another_described():
    faster = device_named("h100-sxm", {"h100-sxm": {"link_bandwidth": 450e9}})
    assert (faster.link_bandwidth, faster.flops) == (450e9, PRESETS["h100-sxm"].flops)
    mine = device_named("mine", {"mine": OWN})
    assert mine == Device("mine", 1e12, 1e11, 1e9, 0.0, 1e-6, 4e9, "mine as configured")


@pytest.mark.parametrize(
    ("name", "own", "said"),
    [
        (
            "h200",
            None,
            "systems.devices: h200 is no device that is known; choose of h100-sxm, a100-80gb, rtx-4090, laptop",
        ),
        ("h200", {"mine": OWN}, "phone-ufs, mine, or describe it"),
        ("mine", {"mine": OWN | {"link_bandwidth": -1}}, "device mine: link_bandwidth is -1; it must be positive"),
        ("mine", {"mine": OWN | {"memory_bandwidth": 0}}, "memory_bandwidth is 0; it must be positive"),
        ("mine", {"mine": OWN | {"flops": float("inf")}}, "flops is inf; it must be positive"),
        ("mine", {"mine": OWN | {"flops": float("nan")}}, "flops is nan; it must be positive"),
        ("mine", {"mine": OWN | {"link_latency": -1e-6}}, "link_latency is -1e-06; it must be 0 or more"),
        ("mine", {"mine": OWN | {"launch": "fast"}}, "launch is 'fast'; it must be a number"),
        ("mine", {"mine": OWN | {"flop": 1}}, "flop is no field of a device; the fields are flops, memory_bandwidth"),
        ("mine", {"mine": {"flops": 1e12}}, "memory_bandwidth is missing"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(name, own, said):
    with pytest.raises(VarError, match=re.escape(said)) as raised:
        device_named(name, own)
    assert "\n" not in str(raised.value)
