"""Checkpoints of a capture job: two generations beside the shard, checksummed, keyed by the plan.

They are state that Snakemake does not know of, because it deletes declared outputs before a retry. A checkpoint
holds the accumulator's tensors, how far the job has come, and the digests of the part files (finished domains, trace
rows) that were on disk before it; a part that no checkpoint names does not count.
"""

import json
import logging
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from var_core.errors import VarError
from var_core.files import canonical_json, file_digest, remove_asides, written_aside

_LOGGER = logging.getLogger(__name__)
_GENERATIONS = ("a", "b")


@dataclass
class Progress:
    """How far a job has come.

    Attributes
    ----------
    batches : int
        Batches whose decisions are in the accumulator or in a part.
    parts : dict
        Part file name -> SHA-256 of its bytes.
    nonfinite : list of int
        Decisions left out at every layer, over the finished domains; empty before the first is finished.
    """

    batches: int = 0
    parts: dict[str, str] = field(default_factory=dict)
    nonfinite: list[int] = field(default_factory=list)


class CheckpointFolder:
    """The state of one shard's capture on disk.

    Parameters
    ----------
    folder : Path
        Folder of the shard's state; made when first needed.
    shard_digest : str
        The plan's digest; checkpoints of another plan are refused.
    check : callable, optional
        Called before anything is written; raises if another process has taken the shard over.
    """

    def __init__(self, folder: Path, shard_digest: str, check: Callable[[], None] = lambda: None) -> None:
        self.folder, self.check = folder, check
        self._digest = shard_digest
        self._saved = 0

    def part(self, name: str) -> Path:
        """Path of a part file."""
        return self.folder / name

    def remove(self) -> None:
        """Delete the state; the shard is whole."""
        self.check()
        shutil.rmtree(self.folder, ignore_errors=True)

    def save(self, progress: Progress, tensors: Mapping[str, torch.Tensor]) -> None:
        """Write the older generation anew; the younger one stays until this one is safely on disk.

        Raises
        ------
        VarError
            If the disk is full, or another process has taken the shard over; the younger generation is what it was.
        """
        self.check()
        held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        record = {"plan": self._digest, "saved": self._saved + 1, **vars(progress)}
        sealed = json.dumps({**record, "checksum": _checksum(record, held)}, sort_keys=True)
        with written_aside(self._generation(self._saved)) as aside:
            _save_file(held, aside, sealed)
            self.check()  # writing may have taken long
        self._saved += 1

    def load(self) -> tuple[Progress, dict[str, torch.Tensor]] | None:
        """Return the youngest sound checkpoint, or None if there is none.

        Damaged generations, and those of another plan, are named in a warning and passed over.

        Raises
        ------
        VarError
            If there are checkpoints but all sound ones were written under another plan.
        """
        remove_asides(self.folder)
        found: list[tuple[int, Path]] = []
        foreign: list[Path] = []
        for path in filter(Path.is_file, map(self._generation, range(len(_GENERATIONS)))):
            try:
                record = _read_record(path)
                if record["plan"] == self._digest:
                    found.append((record["saved"], path))
                else:
                    foreign.append(path)
            except _DamagedError as damage:
                _warn(path, str(damage))
        for _, path in sorted(found, reverse=True):
            try:
                record, tensors = self._read_sound(path)
            except _DamagedError as damage:
                _warn(path, str(damage))
                continue
            for other in foreign:
                _warn(other, "written under another plan")
            self._saved = record["saved"]
            return Progress(record["batches"], record["parts"], record["nonfinite"]), tensors
        for path in foreign:
            try:
                _read(path)
            except _DamagedError as damage:
                _warn(path, str(damage))
                continue
            raise VarError(
                f"{path}: this checkpoint was written under another plan (model, corpus, settings or code); "
                f"delete the folder {self.folder} to start the shard afresh"
            )
        return None

    def _generation(self, number: int) -> Path:
        return self.folder / f"checkpoint-{_GENERATIONS[number % len(_GENERATIONS)]}.safetensors"

    def _read_sound(self, path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """Read a checkpoint with all that belongs to it, checking every byte."""
        record, tensors = _read(path)
        for name, digest in record["parts"].items():
            part = self.part(name)
            if not part.is_file() or file_digest(part) != digest:
                raise _DamagedError(f"its part {name} is missing or damaged")
        return record, tensors


class _DamagedError(Exception):
    """A checkpoint file that is truncated or altered."""


def _warn(path: Path, damage: str) -> None:
    _LOGGER.warning("%s: %s; using an earlier state", path, damage)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[dict[str, Any], Any]]:
    """Open a checkpoint: its record, and the tensors to be read."""
    try:
        with safe_open(path, framework="pt") as stream:
            record = json.loads((stream.metadata() or {})["var"])
            if not isinstance(record, dict) or not {"plan", "saved", "checksum"} <= record.keys():
                raise ValueError("its record lacks keys")
            yield record, stream
    except (SafetensorError, KeyError, ValueError, OSError, RuntimeError) as error:
        raise _DamagedError(f"not a readable checkpoint ({str(error).splitlines()[0]})") from error


def _read_record(path: Path) -> dict[str, Any]:
    with _opened(path) as (record, _):
        return record


def _read(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    with _opened(path) as (record, stream):
        tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 - not a dict
    if record.pop("checksum") != _checksum(record, tensors):
        raise _DamagedError("its checksum does not match")
    return record, tensors


def _save_file(tensors: dict[str, torch.Tensor], path: Path, record: str) -> None:
    try:
        save_file(tensors, path, metadata={"var": record})
    except SafetensorError as error:
        # It says in words alone what the system said; the number tells a full disk from the rest.
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), str(error)) from error


def _checksum(record: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> str:
    """Digest of a checkpoint's record and of all its tensors with their names, types and shapes."""
    digest = sha256(canonical_json(record).encode())
    for name in sorted(tensors):
        array = tensors[name].numpy()
        digest.update(f"{name} {array.dtype} {array.shape} ".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
