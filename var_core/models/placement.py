"""Where a model's weights go: one device, several, or partly to disk."""

import tempfile
import weakref
from pathlib import Path
from typing import Any

import torch
from torch import nn

from var_core.errors import VarError


def find_device(name: str) -> torch.device:
    """Turn ``"auto"`` (the GPU when there is one) or the name of a device into a device.

    Raises
    ------
    VarError
        If there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise VarError(f"device: {name!r} is not a torch device; use auto, cpu, cuda or cuda:0") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise VarError(f"device: {name} is not there ({torch.cuda.device_count()} CUDA devices are); use auto or cpu")
    return device


class Placement:
    """Where a model is to go, and the folder on disk that is made for it.

    Parameters
    ----------
    name : str
        The model's name in the configuration.
    device : str
        A torch device, or ``"auto"``; not used with `device_map`.
    device_map : str or None
        How accelerate spreads the model over devices; None: one device.
    max_memory : dict or None
        Most that weights may take, by number of a GPU (as text) or ``cpu``.
    offload_folder : str or None
        Folder in which one is made for weights that fit nowhere else.

    Raises
    ------
    VarError
        If a device is not there or the folder cannot be made.
    """

    def __init__(
        self,
        name: str,
        device: str,
        device_map: str | None,
        max_memory: dict[str, str] | None,
        offload_folder: str | None,
    ) -> None:
        self._name = name
        self._single = find_device(device) if device_map is None else None
        self._device_map, self._max_memory = device_map, max_memory
        for key in max_memory or {}:
            if key != "cpu" and int(key) >= torch.cuda.device_count():
                raise VarError(
                    f"models.{name}.max_memory: GPU {key} is not there ({torch.cuda.device_count()} are); take it out"
                )
        self._folder = None if offload_folder is None else self._own_folder(Path(offload_folder).expanduser())

    def _own_folder(self, parent: Path) -> "tempfile.TemporaryDirectory[str]":
        try:
            parent.mkdir(parents=True, exist_ok=True)
            return tempfile.TemporaryDirectory(prefix=f"{self._name}-", dir=parent)
        except OSError as error:
            raise VarError(
                f"models.{self._name}.offload_folder: {parent} cannot be written ({error.strerror})"
            ) from None

    def options(self) -> dict[str, Any]:
        """Options for ``from_pretrained``."""
        if self._single is not None:
            return {"device_map": {"": self._single}}
        options: dict[str, Any] = {"device_map": self._device_map}
        if self._max_memory is not None:
            options["max_memory"] = {key if key == "cpu" else int(key): size for key, size in self._max_memory.items()}
        if self._folder is not None:
            options["offload_folder"] = self._folder.name
        return options

    def keep_for(self, model: nn.Module) -> None:
        """Keep the folder on disk as long as the model is used, and no longer."""
        if self._folder is not None:
            weakref.finalize(model, self._folder.cleanup)

    def fault(self, error: Exception) -> str | None:
        """What to change if a model could not be placed; None if the error is another one."""
        if isinstance(error, torch.OutOfMemoryError):
            change = "lower max_memory" if self._single is None else "set device_map: auto"
            return f"it does not fit into the memory of the GPU; {change}, or quantisation"
        if self._single is None and "offload_folder" in str(error):
            return "it does not fit into max_memory (or the memory there is); raise it, or set offload_folder"
        return None


def input_device(model: Any) -> torch.device:
    """Device where a model wants its token ids.

    That is where its embedding runs, which is not where its weights lie if they are offloaded: those are brought in
    by accelerate's hook for each pass.
    """
    embedding = model.get_input_embeddings()
    hook = getattr(embedding, "_hf_hook", None)
    for one in getattr(hook, "hooks", [hook]):
        device = getattr(one, "execution_device", None)
        if device is not None:
            return torch.device(device)
    return torch.device(embedding.weight.device)
