"""Settings of systems that cannot be meant are refused in a line that names them."""

import pytest

from var_core.config.root import parse_config
from var_core.config.systems import SystemsConfig
from var_core.errors import VarError
from var_core.systems.devices import PRESETS
from var_core.systems.machine import Machine, devices_of


def config(**systems):
    return {
        "runs": [{"model": "m", "corpus": "c"}],
        "models": {"m": {"source": "trace", "experts": 8, "top_k": 2}},
        "corpora": {"c": {"source": "trace", "format": "parquet", "domains": {"text": ["rows.parquet"]}}},
        "systems": systems,
    }


OWN = {"flops": 1e12, "memory_bandwidth": 1e11, "link_bandwidth": 1e9}


@pytest.mark.parametrize(
    ("systems", "message"),
    [
        ({"own_devices": {"mine": OWN | {"memory_bandwidth": -5}}}, "own_devices.mine.memory_bandwidth: must be more"),
        (
            {"own_devices": {"mine": OWN | {"link_bandwidth": 0}}},
            "own_devices.mine.link_bandwidth: must be more than 0",
        ),
        ({"own_devices": {"mine": OWN | {"link_latency": -1}}}, "own_devices.mine.link_latency: must be at least 0"),
        ({"profile": {"batches": [2]}}, "profile.heldout_batches: 2 is among profile.batches"),
        ({"caches": {"policies": ["clock"]}}, "systems.caches.policies.0: must be 'lru'"),
        ({"caches": {"sizes_mib": [-1]}}, "systems.caches.sizes_mib.0: must be more than 0"),
        ({"offload": {"share": 0}}, "systems.offload.share: must be more than 0"),
    ],
)
def test_what_cannot_be_is_refused(systems, message):
    with pytest.raises(VarError, match=message) as error:
        parse_config(config(**systems), "config.yaml")
    assert "\n" not in str(error.value)


def test_devices_are_those_of_the_configuration_and_this_machine():
    systems = SystemsConfig.model_validate({"devices": ["rtx-4090", "mine"], "own_devices": {"mine": OWN}})
    preset, own = devices_of(systems, None)
    assert preset == PRESETS["rtx-4090"]
    assert (own.name, own.link_bandwidth, own.link_latency) == ("mine", 1e9, 0)
    machine = Machine(preset, {}, None, None, 0.0, {})
    assert devices_of(systems, machine)[0] == preset


def test_an_unknown_device_is_refused():
    with pytest.raises(VarError, match="abacus is no device that is known; choose of h100-sxm"):
        devices_of(SystemsConfig(devices=("abacus",)), None)
