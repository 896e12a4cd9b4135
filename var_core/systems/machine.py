"""The machine of a run as a device: its measured ceilings, brought to what the parts of the model really reach."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from var_core.config.systems import SystemsConfig
from var_core.files import read_json, write_json
from var_core.systems.devices import Device, device_named

MACHINE = "this machine"


@dataclass(frozen=True)
class Machine:
    """What was measured of this machine.

    Attributes
    ----------
    device : Device
        What the model's parts reach, over the link that was measured.
    ceilings : dict
        What the machine can do at most, as measured.
    heldout_median, heldout_worst : float or None
        Relative errors of the cost model on batch sizes that it was not calibrated on.
    deciding : float
        Seconds a pass that a policy's decision takes here: looking up, choosing, giving, remembering.
    predicting : dict
        Predictor -> seconds that predicting the experts of all layers takes here: of a pass, and of each of its tokens.
    """

    device: Device
    ceilings: dict[str, Any]
    heldout_median: float | None
    heldout_worst: float | None
    deciding: float
    predicting: dict[str, tuple[float, float]]

    def write(self, path: Path) -> None:
        """Write it as JSON."""
        write_json(path, asdict(self))

    @classmethod
    def read(cls, path: Path) -> "Machine":
        """Read what :meth:`write` wrote."""
        values = read_json(path)
        return cls(**{**values, "device": Device(**values["device"])})


def devices_of(config: SystemsConfig, machine: Machine | None) -> list[Device]:
    """The devices of a configuration, this machine first.

    Raises
    ------
    VarError
        If there is no such preset.
    """
    own = {
        name: {key: value for key, value in device.model_dump().items() if value is not None}
        for name, device in config.own_devices.items()
    }
    for values in own.values():
        # Not limited is more than any model needs.
        values.setdefault("memory_bytes", 1e18)
    found = [device_named(name, own) for name in config.devices]
    return found if machine is None else [machine.device, *found]
