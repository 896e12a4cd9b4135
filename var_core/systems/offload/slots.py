"""Fast memory for experts: tensors with as many rows as experts may be resident."""

import torch

from var_core.errors import VarError
from var_core.systems.offload.residency import Slot
from var_core.systems.offload.store import Store


class Slots:
    """Rows for experts, of all layers together or of each.

    Parameters
    ----------
    store : Store
        Whose experts they are for.
    layers : int
    capacity : int
        Rows: in all if `shared`, else of each layer.
    shared : bool
    device : torch.device

    Raises
    ------
    VarError
        If capacity is to be shared by layers whose experts are not alike.
    """

    def __init__(self, store: Store, layers: int, capacity: int, shared: bool, device: torch.device) -> None:
        layouts = [dict(store.layout(layer)) for layer in range(layers)]
        if shared and any(layout != layouts[0] for layout in layouts):
            raise VarError("capacity: cannot be shared by MoE layers whose experts differ in shape; give it per layer")
        # Not for autograd, and changed by threads and streams that know nothing of inference mode.
        with torch.inference_mode(False):
            rows = [
                {
                    name: torch.zeros((capacity, *part.shape), dtype=part.dtype, device=device)
                    for name, part in each.items()
                }
                for each in (layouts[:1] if shared else layouts)
            ]
        self._rows = rows * layers if shared else rows
        self._bytes = [sum(part.bytes for part in layout.values()) for layout in layouts]
        self.capacity, self.shared, self.device = capacity, shared, device

    def of(self, layer: int) -> dict[str, torch.Tensor]:
        """The rows in which a layer's experts may be, by the parameter's name."""
        return self._rows[layer]

    def expert_bytes(self, layer: int) -> int:
        """Bytes of one expert of a layer."""
        return self._bytes[layer]

    def key(self, slot: Slot) -> tuple[int, int]:
        """Which place it is, over all layers."""
        return (0 if self.shared else slot.layer), slot.place
