"""What this machine can do at most, measured: operations, memory, the way of weights from where they are offloaded to.

These are the figures that a roofline is made of; real parts reach a share of them, which
:mod:`var_core.systems.calibration` finds.
"""

import contextlib
import functools
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file
from scipy.optimize import nnls

from var_core.errors import VarError

MEMORY, STORAGE, PINNED = "cached file", "storage", "pinned memory"
"""Where weights come from: a mapped file that the system holds in memory, one that it has to read, a GPU's host."""

_SIZES = (1 << 14, 1 << 17, 1 << 20, 1 << 23)
"""Bytes of a transfer."""
_SIZES_OF_STORAGE = (1 << 16, 1 << 20, 1 << 22, 1 << 24)
"""Larger ones: systems read ahead, so that small reads of a disk take as long as less small ones."""


@dataclass(frozen=True)
class Link:
    """The way of offloaded weights into fast memory.

    Attributes
    ----------
    source : str
        :data:`MEMORY`, :data:`STORAGE` or :data:`PINNED`.
    bandwidth : float
        Bytes a second of a long transfer.
    latency : float
        Seconds that every transfer takes besides.
    """

    source: str
    bandwidth: float
    latency: float


@dataclass(frozen=True)
class Ceilings:
    """What a device can do at most.

    Attributes
    ----------
    device : str
        ``"cpu"``, or the name of the GPU.
    threads : int
        Of a CPU.
    dtype : str
    flops : float
        Operations a second of the best matrix product, two a multiplication with its addition.
    memory_bandwidth : float
        Bytes a second, read and written, of copying or adding up what fits no cache.
    launch : float
        Seconds of an operation that has nothing to do.
    memory_bytes : int
        Of the device.
    links : tuple of Link
        The one that offloaded weights take in this machine first: a file that is mapped stays in memory while there
        is room.
    """

    device: str
    threads: int
    dtype: str
    flops: float
    memory_bandwidth: float
    launch: float
    memory_bytes: int
    links: tuple[Link, ...]


def measure_ceilings(
    device: torch.device, dtype: torch.dtype, folder: Path, seconds: float = 0.3, megabytes: int = 128
) -> Ceilings:
    """Measure a device in a few seconds.

    Parameters
    ----------
    device : torch.device
    dtype : torch.dtype
        The model's.
    folder : Path
        On the disk that weights are offloaded to.
    seconds : float, optional
        That each measurement takes at least.
    megabytes : int, optional
        Size of what is copied, added up and mapped; more than the last cache holds.

    Raises
    ------
    VarError
        If `folder` is not there.
    """
    if not folder.is_dir():
        raise VarError(f"{folder}: no such folder; name one on the disk that weights are offloaded to")
    with torch.inference_mode():
        links = (
            [_pinned_link(device, seconds, megabytes)]
            if device.type == "cuda"
            else _file_links(folder, seconds, megabytes)
        )
        return Ceilings(
            torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            torch.get_num_threads(),
            str(dtype).removeprefix("torch."),
            _flops(device, dtype, seconds),
            _memory_bandwidth(device, seconds, megabytes),
            _launch(device, seconds),
            _memory_bytes(device),
            tuple(links),
        )


def _flops(device: torch.device, dtype: torch.dtype, seconds: float) -> float:
    best = 0.0
    for size in (512, 1024, 8192) if device.type == "cuda" else (256, 512, 1024):
        left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        best = max(best, 2 * size**3 / _shortest(functools.partial(torch.matmul, left, right), device, seconds / 3))
    return best


def _memory_bandwidth(device: torch.device, seconds: float, megabytes: int) -> float:
    source = torch.ones(megabytes << 18, device=device)  # float32
    target, bytes_ = torch.empty_like(source), source.numel() * 4
    copied = 2 * bytes_ / _shortest(lambda: target.copy_(source), device, seconds / 2)
    return max(copied, bytes_ / _shortest(source.sum, device, seconds / 2))


def _launch(device: torch.device, seconds: float) -> float:
    """Of a thousand at once, so that on a GPU the host's part counts only where it is the longer one."""
    one = torch.zeros(1, device=device)

    def many() -> None:
        for _ in range(1000):
            one.add_(1)

    return _shortest(many, device, seconds) / 1000


def _memory_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _shortest(work: Callable[[], object], device: torch.device, seconds: float) -> float:
    """Shortest time of several: a ceiling is what is possible when nothing disturbs."""
    return float(min(_times(work, device, seconds)))


def _times(work: Callable[[], object], device: torch.device, seconds: float, least: int = 3) -> list[float]:
    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    work()
    wait()
    taken: list[float] = []
    while len(taken) < least or sum(taken) < seconds:
        start = time.perf_counter()
        work()
        wait()
        taken.append(time.perf_counter() - start)
    return taken


def _file_links(folder: Path, seconds: float, megabytes: int) -> list[Link]:
    """Rows of a mapped safetensors file into a buffer: while the system holds it in memory, when it has let it go."""
    rows = (megabytes << 20) // min(_SIZES)
    with tempfile.TemporaryDirectory(dir=folder) as own:
        path = Path(own) / "weights.safetensors"
        content = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (rows, min(_SIZES)), dtype=np.uint8))
        save_file({"weights": content}, path)
        _sync(path)
        storage = _file_link(STORAGE, lambda: _forgotten(path), rows, _SIZES_OF_STORAGE, seconds)
        return [_held_link(path, rows, seconds), storage]


def _held_link(path: Path, rows: int, seconds: float) -> Link:
    held = _mapped(path)
    held.sum()  # every page has been mapped once
    return _file_link(MEMORY, lambda: held, rows, _SIZES, seconds)


def _file_link(
    source: str, weights: Callable[[], torch.Tensor], rows: int, transfers: Sequence[int], seconds: float
) -> Link:
    random = np.random.default_rng(0)
    buffers = [torch.zeros(size // min(_SIZES), min(_SIZES), dtype=torch.uint8) for size in transfers]
    sizes: list[int] = []
    taken: list[float] = []
    # All sizes in turn, so that a machine that slows down slows all of them down.
    while sum(taken) < seconds or len(taken) < 5 * len(transfers):
        for buffer in buffers:
            at = int(random.integers(rows - len(buffer) + 1))
            mapped = weights()
            start = time.perf_counter()
            buffer.copy_(mapped[at : at + len(buffer)])
            taken.append(time.perf_counter() - start)
            sizes.append(buffer.numel())
            del mapped  # what is mapped is not forgotten
    return Link(source, *fit_link(sizes, taken))


def _mapped(path: Path) -> torch.Tensor:
    with safe_open(path, framework="pt") as file:
        weights: torch.Tensor = file.get_tensor("weights")
        return weights


def _sync(path: Path) -> None:
    """The system lets go of those pages only that are on the disk."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def _forgotten(path: Path) -> torch.Tensor:
    """A file that the system was asked to hold no longer; what is held elsewhere, as by a host of this one, stays."""
    with path.open("rb") as stream, contextlib.suppress(OSError, AttributeError):
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return _mapped(path)


def _pinned_link(device: torch.device, seconds: float, megabytes: int) -> Link:
    """Pinned memory of the host to a GPU, on a stream of its own."""
    stream = torch.cuda.Stream(device)
    sizes: list[int] = []
    taken: list[float] = []
    for size in (*_SIZES, megabytes << 20):
        host = torch.empty(size, dtype=torch.uint8, pin_memory=True)
        target = torch.empty(size, dtype=torch.uint8, device=device)

        def copy(host: torch.Tensor = host, target: torch.Tensor = target) -> None:
            with torch.cuda.stream(stream):
                target.copy_(host, non_blocking=True)

        own = _times(copy, device, seconds / (len(_SIZES) + 1))
        sizes += [size] * len(own)
        taken += own
    return Link(PINNED, *fit_link(sizes, taken))


def fit_link(sizes: Sequence[int], seconds: Sequence[float]) -> tuple[float, float]:
    """Bandwidth and latency of transfers: the medians of each size by least squares of relative errors.

    Parameters
    ----------
    sizes : sequence of int
        Bytes of each transfer.
    seconds : sequence of float
        What each took.

    Returns
    -------
    bandwidth, latency : float
        Where larger ones took no longer, as with a disk that others use, the bandwidth is what the largest attained.
    """
    every = np.asarray(sizes)
    distinct = np.unique(every)
    medians: NDArray[np.float64] = np.array([np.median(np.asarray(seconds)[every == size]) for size in distinct])
    # Seconds a megabyte: numbers of like size, as the method wants them.
    (latency, by_megabyte), _ = nnls(np.stack((1 / medians, distinct / 1e6 / medians), axis=1), np.ones(len(distinct)))
    if by_megabyte <= 0:
        return float(distinct[-1] / medians[-1]), 0.0
    return float(1e6 / by_megabyte), float(latency)
