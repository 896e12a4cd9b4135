"""The weights of all experts in slow memory: memory-mapped safetensors, or pinned host memory beside a GPU."""

import json
import mmap
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from safetensors.torch import save_file
from torch import nn

from var_core.errors import VarError
from var_core.files import written_aside
from var_core.routing.readers import ContractReader
from var_core.routing.sites import Site

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I8": torch.int8,
    "U8": torch.uint8,
}
_KNOWN = frozenset(_DTYPES.values())
_PAGE = mmap.PAGESIZE


@dataclass(frozen=True)
class Fused:
    """What one of the fused parameters of a layer's experts is.

    Attributes
    ----------
    dtype : torch.dtype
    shape : tuple of int
        Of one expert's part.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Of one expert's part."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize


Layout = Mapping[str, Fused]
"""The fused parameters of a layer's experts by name."""


class Store(Protocol):
    """Slow memory that holds the weights of all experts."""

    def layout(self, layer: int) -> Layout:
        """What a layer's experts are made of."""

    def experts(self, layer: int) -> int:
        """Number of a layer's experts."""

    def parts(self, layer: int, expert: int) -> Mapping[str, torch.Tensor]:
        """The weights of an expert, to be copied."""

    def copied(self, layer: int, expert: int) -> None:
        """They have been copied: whatever fast memory they take here is free again."""


def fused_parameters(site: Site) -> dict[str, nn.Parameter]:
    """The parameters of a site's experts that have a row for every expert.

    Raises
    ------
    VarError
        If the experts are not such that rows of them can be taken away: not fused, quantised, placed elsewhere already,
        or of a family that does not run them as transformers does in general.
    """
    module = site.experts
    rows = {name: each for name, each in module.named_parameters(recurse=False) if each.ndim >= 2}
    if hasattr(module, "_hf_hook"):
        reason = "accelerate moves its weights already; load the model on one device, without device_map"
    elif not isinstance(site.reader, ContractReader) or not hasattr(module, "is_transposed"):
        reason = "this family has its own way of running experts; use one with fused experts, as Mixtral or Qwen3-MoE"
    elif not any(each.ndim == 3 for each in rows.values()) or any(each.dtype not in _KNOWN for each in rows.values()):
        reason = "its experts are quantised, or not fused into one tensor; load the model unquantised"
    elif any(len(each) != site.number_of_experts for each in rows.values()):
        reason = f"some of its parameters do not have a row for each of the {site.number_of_experts} experts"
    elif getattr(module, "_is_expert_parallel", False):
        reason = "its experts are spread over devices; load the model on one device"
    else:
        return rows
    raise VarError(f"MoE layer {site.path} ({type(module).__name__}) cannot be offloaded: {reason}")


def write_experts(sites: tuple[Site, ...], folder: Path) -> None:
    """Write the experts of all sites, a safetensors file a layer: what :class:`MappedStore` maps.

    Raises
    ------
    VarError
        As :func:`fused_parameters`; or if the disk is full.
    """
    for site in sites:
        tensors = {name: each.detach().cpu().contiguous() for name, each in fused_parameters(site).items()}
        with written_aside(layer_file(folder, site.layer)) as aside:
            save_file(tensors, aside)


def layer_file(folder: Path, layer: int) -> Path:
    """Where a layer's experts are in a store's folder."""
    return folder / f"layer-{layer:03d}.safetensors"


class MappedStore:
    """Experts in safetensors files that are mapped into memory, a file a layer.

    What has been copied is given back at once, so that the mapping adds nothing lasting to the process's resident set.

    Parameters
    ----------
    folder : Path
        Written by :func:`write_experts`; each tensor has a row for every expert.
    layers : int
    from_disk : bool, optional
        Ask the system to forget what has been read too, so that it is read from the disk each time; else it may stay
        in the system's cache of files.

    Raises
    ------
    VarError
        If a file is missing or is no such file.
    """

    def __init__(self, folder: Path, layers: int, from_disk: bool = False) -> None:
        self._files = [_MappedFile(layer_file(folder, layer), from_disk) for layer in range(layers)]

    def layout(self, layer: int) -> Layout:
        """What a layer's experts are made of."""
        return self._files[layer].layout

    def experts(self, layer: int) -> int:
        """Number of a layer's experts."""
        return self._files[layer].experts

    def parts(self, layer: int, expert: int) -> Mapping[str, torch.Tensor]:
        """Views of the mapping: read when they are copied."""
        return self._files[layer].rows(expert)

    def copied(self, layer: int, expert: int) -> None:
        """Give the pages back."""
        self._files[layer].forget(expert)


class PinnedStore:
    """Experts in pinned host memory, from where a GPU copies them on its own.

    Parameters
    ----------
    source : MappedStore
        Where they are read from, once.
    layers : int
    """

    def __init__(self, source: MappedStore, layers: int) -> None:
        self._layouts = [source.layout(layer) for layer in range(layers)]
        self._rows = [self._pinned(source, layer) for layer in range(layers)]

    @staticmethod
    def _pinned(source: MappedStore, layer: int) -> dict[str, torch.Tensor]:
        experts = source.experts(layer)
        whole = {
            name: torch.empty((experts, *fused.shape), dtype=fused.dtype, pin_memory=True)
            for name, fused in source.layout(layer).items()
        }
        for expert in range(experts):
            for name, part in source.parts(layer, expert).items():
                whole[name][expert].copy_(part)
            source.copied(layer, expert)
        return whole

    def layout(self, layer: int) -> Layout:
        """What a layer's experts are made of."""
        return self._layouts[layer]

    def experts(self, layer: int) -> int:
        """Number of a layer's experts."""
        return len(next(iter(self._rows[layer].values())))

    def parts(self, layer: int, expert: int) -> Mapping[str, torch.Tensor]:
        """Views of the pinned memory."""
        return {name: whole[expert] for name, whole in self._rows[layer].items()}

    def copied(self, layer: int, expert: int) -> None:
        """Nothing: it stays in host memory."""


class _MappedFile:
    """One layer's safetensors file, mapped."""

    def __init__(self, path: Path, from_disk: bool) -> None:
        header, self._start = _read_header(path)
        self._path, self._from_disk = path, from_disk
        self._offset: dict[str, int] = {}
        layout: dict[str, Fused] = {}
        self.experts = min(each["shape"][0] for each in header.values())
        for name, each in header.items():
            layout[name] = Fused(_DTYPES[each["dtype"]], tuple(each["shape"][1:]))
            self._offset[name] = self._start + each["data_offsets"][0]
        self.layout: Layout = layout
        self._file = path.open("rb")
        # A private mapping that may be written to, for tensors are; nobody does, so that its pages stay the file's.
        self._map = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_COPY)

    def rows(self, expert: int) -> dict[str, torch.Tensor]:
        views = {}
        for name, fused in self.layout.items():
            start = self._offset[name] + expert * fused.bytes
            if self._from_disk:
                self._advise(mmap.MADV_WILLNEED, start, fused.bytes)
            number = fused.bytes // fused.dtype.itemsize
            views[name] = torch.frombuffer(self._map, dtype=fused.dtype, count=number, offset=start).view(fused.shape)
        return views

    def forget(self, expert: int) -> None:
        for name, fused in self.layout.items():
            start = self._offset[name] + expert * fused.bytes
            self._advise(mmap.MADV_DONTNEED, start, fused.bytes)
            if self._from_disk:
                os.posix_fadvise(self._file.fileno(), start, fused.bytes, os.POSIX_FADV_DONTNEED)

    def _advise(self, advice: int, start: int, length: int) -> None:
        first = start - start % _PAGE
        self._map.madvise(advice, first, start + length - first)

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()


def _read_header(path: Path) -> tuple[dict[str, dict], int]:
    """The tensors of a safetensors file, and where its data begins."""
    try:
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(min(length, path.stat().st_size)))
            header.pop("__metadata__", None)
            ends = [each["data_offsets"][1] for each in header.values() if each["dtype"] in _DTYPES and each["shape"]]
            if not ends or len(ends) < len(header) or path.stat().st_size < 8 + length + max(ends):
                raise ValueError
    except FileNotFoundError:
        raise VarError(f"{path}: no such file; write the model's experts anew") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise VarError(f"{path}: is no whole safetensors file of experts; write the model's experts anew") from None
    return header, 8 + length
