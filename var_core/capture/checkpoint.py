"""Checkpoints of a capture job: two generations beside the shard, checksummed, keyed by the plan.

They are state that Snakemake does not know of, because it deletes declared outputs before a retry. A checkpoint
holds the accumulator's tensors, how far the job has come, and the digests of the part files (finished domains, trace
rows) that were on disk before it; a part that no checkpoint names does not count.
"""

import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from var_core.errors import VarError
from var_core.files import file_digest, written_aside

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
    """

    def __init__(self, folder: Path, shard_digest: str) -> None:
        self.folder = folder
        self._digest = shard_digest
        self._saved = 0

    def part(self, name: str) -> Path:
        """Path of a part file."""
        return self.folder / name

    def remove(self) -> None:
        """Delete the state; the shard is whole."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def save(self, progress: Progress, tensors: Mapping[str, torch.Tensor]) -> None:
        """Write the older generation anew; the younger one stays until this one is safely on disk."""
        held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        record = {"plan": self._digest, "saved": self._saved + 1, **vars(progress), "tensors": _checksum(held)}
        path = self.folder / f"checkpoint-{_GENERATIONS[self._saved % 2]}.safetensors"
        with written_aside(path) as aside:
            save_file(held, aside, metadata={"var": json.dumps(record, sort_keys=True)})
        self._saved += 1

    def load(self) -> tuple[Progress, dict[str, torch.Tensor]] | None:
        """Return the youngest sound checkpoint, or None if there is none.

        Damaged generations are named in a warning and passed over.

        Raises
        ------
        VarError
            If there are checkpoints but all sound ones were written under another plan.
        """
        found: list[tuple[int, dict[str, Any], dict[str, torch.Tensor]]] = []
        foreign: list[Path] = []
        for path in sorted(self.folder.glob("checkpoint-*.safetensors")):
            try:
                record, tensors = _read(path)
            except _DamagedError as damage:
                _LOGGER.warning("%s: %s; using an earlier state", path, damage)
                continue
            if record["plan"] != self._digest:
                foreign.append(path)
                continue
            lost = [name for name, digest in record["parts"].items() if not self._has_part(name, digest)]
            if lost:
                _LOGGER.warning("%s: its part %s is missing or damaged; using an earlier state", path, lost[0])
                continue
            found.append((record["saved"], record, tensors))
        if foreign and not found:
            raise VarError(
                f"{foreign[0]}: this checkpoint was written under another plan (model, corpus, settings or code); "
                f"delete the folder {self.folder} to start the shard afresh"
            )
        if not found:
            return None
        self._saved, record, tensors = max(found, key=lambda item: item[0])
        return Progress(record["batches"], record["parts"], record["nonfinite"]), tensors

    def _has_part(self, name: str, digest: str) -> bool:
        path = self.part(name)
        return path.is_file() and file_digest(path) == digest


class _DamagedError(Exception):
    """A checkpoint file that is truncated or altered."""


def _read(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    try:
        with safe_open(path, framework="pt") as stream:
            record: dict[str, Any] = json.loads((stream.metadata() or {})["var"])
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise _DamagedError(f"not a readable checkpoint ({str(error).splitlines()[0]})") from error
    if record.get("tensors") != _checksum(tensors):
        raise _DamagedError("its checksum does not match")
    return record, tensors


def _checksum(tensors: Mapping[str, torch.Tensor]) -> str:
    digest = sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].numpy().tobytes())
    return digest.hexdigest()
