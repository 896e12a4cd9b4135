"""Devices: how fast they compute, read their memory, and fetch what is not in it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from var_core.errors import VarError


@dataclass(frozen=True)
class Device:
    """The ceilings of a device.

    Attributes
    ----------
    name : str
        Its name.
    flops : float
        Dense operations a second of matrix products, in the precision that models run in.
    memory_bandwidth : float
        Bytes a second from its memory.
    link_bandwidth : float
        Bytes a second over the link by which offloaded experts come: from host memory, or from a disk.
    link_latency : float
        Seconds until a transfer over the link begins to arrive.
    launch : float
        Seconds that starting one part of a pass takes, whatever its size.
    memory_bytes : float
        Size of its memory.
    source : str
        Where the numbers come from.
    launches : mapping of str to float
        Where it was measured: seconds that starting each part takes, and each distinct expert, in place of `launch`.
    """

    name: str
    flops: float
    memory_bandwidth: float
    link_bandwidth: float
    link_latency: float
    launch: float
    memory_bytes: float
    source: str
    launches: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for key in ("flops", "memory_bandwidth", "link_bandwidth", "memory_bytes"):
            self._check(key, getattr(self, key) > 0, "positive")
        for key in ("link_latency", "launch"):
            self._check(key, getattr(self, key) >= 0, "0 or more")

    def start(self, part: str, begun: float = 1.0) -> float:
        """Seconds of starting a part of a layer, `begun` times where it was measured."""
        if not self.launches:
            return self.launch
        # Parts that were not measured apart are started with those that they were measured in.
        return self.launches.get(part, 0.0) * begun

    def _check(self, key: str, holds: bool, wanted: str) -> None:
        value = getattr(self, key)
        if not holds or not math.isfinite(value):
            raise VarError(f"device {self.name}: {key} is {value:g}; it must be {wanted}")


_TERA, _GIGA, _GIB = 1e12, 1e9, float(1 << 30)

PRESETS: dict[str, Device] = {
    device.name: device
    for device in (
        Device(
            "h100-sxm",
            flops=989.4 * _TERA,
            memory_bandwidth=3350 * _GIGA,
            link_bandwidth=64 * _GIGA,
            link_latency=10e-6,
            launch=5e-6,
            memory_bytes=80 * _GIGA,
            source="NVIDIA H100 Tensor Core GPU data sheet: SXM5, BF16 without sparsity, 80 GB HBM3; PCIe 5.0 x16 "
            "(128 GB/s both ways, half of it each way); latency and launch are usual values, not from the sheet",
        ),
        Device(
            "a100-80gb",
            flops=312 * _TERA,
            memory_bandwidth=2039 * _GIGA,
            link_bandwidth=32 * _GIGA,
            link_latency=10e-6,
            launch=5e-6,
            memory_bytes=80 * _GIGA,
            source="NVIDIA A100 Tensor Core GPU data sheet: 80 GB SXM, BF16 without sparsity, HBM2e; PCIe 4.0 x16 "
            "(64 GB/s both ways, half of it each way); latency and launch are usual values, not from the sheet",
        ),
        Device(
            "rtx-4090",
            flops=165.2 * _TERA,
            memory_bandwidth=1008 * _GIGA,
            link_bandwidth=32 * _GIGA,
            link_latency=10e-6,
            launch=5e-6,
            memory_bytes=24 * _GIGA,
            source="NVIDIA Ada GPU architecture whitepaper: GeForce RTX 4090, BF16 with FP32 sums and without "
            "sparsity, 24 GB GDDR6X; PCIe 4.0 x16, one way; latency and launch are usual values, not from the paper",
        ),
        Device(
            "laptop-nvme",
            flops=7.4 * _TERA,
            memory_bandwidth=150 * _GIGA,
            link_bandwidth=7 * _GIGA,
            link_latency=80e-6,
            launch=10e-6,
            memory_bytes=18 * _GIB,
            source="a laptop with unified memory like Apple's M3 Pro (technical specifications: 150 GB/s, 18 GB; about "
            "7.4 TFLOP/s in FP32 by its cores and clock) and a PCIe 4.0 x4 NVMe disk like Samsung's 990 PRO (data "
            "sheet: 7,450 MB/s sequential read, rounded down); latency and launch are usual values, not from a sheet",
        ),
        Device(
            "phone-ufs",
            flops=2 * _TERA,
            memory_bandwidth=77 * _GIGA,
            link_bandwidth=4 * _GIGA,
            link_latency=100e-6,
            launch=20e-6,
            memory_bytes=12 * _GIB,
            source="a phone with LPDDR5X like Snapdragon 8 Gen 3's (product brief: 4,800 MHz, 64 bits wide: 76.8 GB/s) "
            "and UFS 4.0 storage (JEDEC JESD220F: 2 lanes of 23.2 Gbit/s; about 4,200 MB/s sequential read, rounded "
            "down); operations, latency and launch are usual values, not from a sheet",
        ),
    )
}
"""Devices by name, from their data sheets: ceilings that programs stay below."""

_NUMBERS = tuple(each.name for each in fields(Device) if each.name not in ("name", "source", "launches"))


def device_named(name: str, own: Mapping[str, Mapping[str, Any]] | None = None) -> Device:
    """Find a device.

    Parameters
    ----------
    name : str
        A preset's name, or one of `own`.
    own : mapping or None, optional
        Devices of the user's: name to the fields of :class:`Device`. One called like a preset changes that preset's
        fields; any other must have all numbers.

    Raises
    ------
    VarError
        If there is no such device, or a field of it is unknown, missing or makes no sense.
    """
    given = own or {}
    if name not in PRESETS and name not in given:
        known = ", ".join([*PRESETS, *(mine for mine in given if mine not in PRESETS)])
        raise VarError(
            f"systems.devices: {name} is no device that is known; choose of {known}, or describe it under "
            "systems.own_devices"
        )
    if name not in given:
        return PRESETS[name]
    values = dict(given[name])
    for key in values:
        if key not in _NUMBERS and key != "source":
            raise VarError(f"device {name}: {key} is no field of a device; the fields are {', '.join(_NUMBERS)}")
    for key in _NUMBERS:
        values[key] = _number(name, key, values.get(key, getattr(PRESETS.get(name), key, None)))
    values.setdefault("source", f"{name} as configured")
    return Device(name, **values)


def _number(name: str, key: str, value: Any) -> float:
    if value is None:
        raise VarError(f"device {name}: {key} is missing; give it")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise VarError(f"device {name}: {key} is {value!r}; it must be a number")
    return float(value)
