"""Model folders: what must be in them, the digest that identifies them, and the record that points to them."""

import hashlib
import json
import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from var_core.errors import VarError
from var_core.files import canonical_json, read_json, write_json

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
_DIGESTED_FILES = (
    *("config.json", "model.safetensors.index.json", "tokenizer_config.json", "special_tokens_map.json"),
    *("added_tokens.json", "merges.txt", *_TOKENIZER_FILES),
)
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_SAMPLES = 64
_SAMPLE_BYTES = 1 << 20
_MAX_HEADER_BYTES = 100_000_000  # the limit that safetensors itself sets


@dataclass(frozen=True)
class ModelRecord:
    """What ``model.json`` says: which model this is and where its folder lies.

    Attributes
    ----------
    name : str
        The model's name in the configuration.
    source : str
        ``hub``, ``folder`` or ``demo``.
    folder : Path
        The Hugging Face folder.
    revision : str or None
        Commit of the hub's repository; None for models that are not from the hub.
    digest : str
        What :func:`folder_digest` gave when the record was written.
    """

    name: str
    source: str
    folder: Path
    revision: str | None
    digest: str


def write_record(output: Path, record: ModelRecord, code: str, **more: Any) -> None:
    """Write ``model.json``.

    A folder at or under that of `output` is recorded relative to it, so that results can be moved; any other by its
    absolute path.

    Parameters
    ----------
    output : Path
        The ``model.json`` to write.
    record : ModelRecord
        What to write.
    code : str
        Digest of the stage's code.
    **more
        Further entries: JSON-serialisable facts that later stages do not need.
    """
    folder, beside = record.folder.resolve(), output.parent.resolve()
    path = os.path.relpath(folder, beside) if folder.is_relative_to(beside) else str(folder)
    entries = {"model": record.name, "source": record.source, "revision": record.revision, "digest": record.digest}
    write_json(output, {**more, **entries, "path": path, "code": code})


def read_record(path: Path) -> ModelRecord:
    """Read ``model.json``.

    Raises
    ------
    VarError
        If the file is missing, is not JSON, or lacks an entry.
    """
    values = read_json(path)
    try:
        folder = path.parent / values["path"]
        return ModelRecord(values["model"], values["source"], folder, values["revision"], values["digest"])
    except (KeyError, TypeError) as error:
        raise VarError(f"{path}: not a model record (no {error}); delete it and run the model stage again") from None


def read_model_config(folder: Path) -> dict[str, Any]:
    """Read ``config.json`` of a model folder.

    Raises
    ------
    VarError
        If folder or file is missing, or the file is not a JSON object.
    """
    if not folder.is_dir():
        raise VarError(f"{folder}: no such folder; give the path of a Hugging Face model folder")
    path = folder / "config.json"
    if not path.is_file():
        raise VarError(f"{folder}: holds no config.json, so it is not a Hugging Face model folder")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise VarError(f"{path}: not valid JSON ({error}); fetch the model again") from None
    if not isinstance(values, dict):
        raise VarError(f"{path}: is not a JSON object; fetch the model again")
    return values


def max_positions(folder: Path) -> int | None:
    """Longest sequence that a model was made for, in tokens; None if its ``config.json`` does not say.

    Models of text and images keep the number under ``text_config``.

    Raises
    ------
    VarError
        If folder or ``config.json`` is missing or not readable.
    """
    config = read_model_config(folder)
    for values in (config, config.get("text_config")):
        if isinstance(values, dict) and isinstance(values.get("max_position_embeddings"), int):
            return int(values["max_position_embeddings"])
    return None


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files of a model folder, in order of name.

    These are what ``model.safetensors.index.json`` names, or ``model.safetensors``. Pickled weights are refused:
    reading a pickle runs whatever code is in it.

    Raises
    ------
    VarError
        If there are no safetensors weights, or a file that the index names is missing.
    """
    index = folder / "model.safetensors.index.json"
    single = folder / "model.safetensors"
    if index.is_file():
        names = _indexed_files(index)
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise VarError(
                f"{folder}: {len(missing)} of {len(names)} weight files that {index.name} names are missing "
                f"(first {missing[0]}); fetch the model again"
            )
        return [folder / name for name in names]
    if single.is_file():
        return [single]
    pickled = sorted(path.name for pattern in _PICKLED for path in folder.glob(pattern))
    if pickled:
        raise VarError(
            f"{folder}: holds only pickled weights ({pickled[0]}), and reading a pickle runs the code in it; "
            "convert them to safetensors once, in an isolated place (from_pretrained, then save_pretrained)"
        )
    raise VarError(f"{folder}: holds no weights (model.safetensors, or an index and the files it names)")


def _indexed_files(index: Path) -> list[str]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, AttributeError, TypeError) as error:
        raise VarError(f"{index}: not a safetensors index ({error}); fetch the model again") from None
    if not names or any(not isinstance(name, str) or Path(name).name != name for name in names):
        raise VarError(f"{index}: names no weight files in its own folder; fetch the model again")
    return names


def check_model_folder(folder: Path) -> None:
    """Refuse a folder that lacks what loading needs: configuration, tokenizer and safetensors weights.

    Raises
    ------
    VarError
        Naming what is missing.
    """
    read_model_config(folder)
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        raise VarError(f"{folder}: holds no tokenizer ({', '.join(_TOKENIZER_FILES)}); add the model's tokenizer files")
    weight_files(folder)


def digested_files(folder: Path) -> list[Path]:
    """List the files that :func:`folder_digest` covers.

    Raises
    ------
    VarError
        If the folder is incomplete.
    """
    check_model_folder(folder)
    return [*_small_files(folder), *weight_files(folder)]


def tokenizer_files(folder: Path) -> list[Path]:
    """List the files of a tokenizer, which may lie without its model; none where there is no tokenizer."""
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        return []
    return [path for path in _small_files(folder) if path.name not in ("config.json", "model.safetensors.index.json")]


def _small_files(folder: Path) -> list[Path]:
    named = [folder / name for name in _DIGESTED_FILES if (folder / name).is_file()]
    return sorted({*named, *folder.glob("*.py")})


def folder_digest(folder: Path) -> str:
    """SHA-256 that identifies a model without reading all its weights.

    It covers, whole: ``config.json``, the weights' index, the tokenizer's files and Python files. Of every weight
    file it covers name, size, header (names, types, shapes and places of the tensors) and 64 blocks of 1 MiB evenly
    spaced from the first byte to the last; files up to 64 MiB are therefore covered whole. A model trained further
    differs in nearly every byte and so is seen; a change that keeps sizes and headers and falls between the blocks
    of a larger file is not.

    Raises
    ------
    VarError
        If the folder is incomplete or a weight file is not safetensors.
    """
    check_model_folder(folder)
    digest = hashlib.sha256()
    for path in _small_files(folder):
        data = path.read_bytes()
        _update(digest, path.name, len(data), [data])
    for path in weight_files(folder):
        size = path.stat().st_size
        _update(digest, path.name, size, [_safetensors_header(path, size), *_samples(path, size)])
    return digest.hexdigest()


def _update(digest: "hashlib._Hash", name: str, size: int, blocks: Iterable[bytes]) -> None:
    """Add one file's name, size and content so that no two lists of files look alike."""
    digest.update(canonical_json([name, size]).encode())
    for block in blocks:
        digest.update(block)


def _safetensors_header(path: Path, size: int) -> bytes:
    with path.open("rb") as stream:
        first = stream.read(8)
        length = struct.unpack("<Q", first)[0] if len(first) == 8 else 0
        header = stream.read(length) if 0 < length <= min(size - 8, _MAX_HEADER_BYTES) else b""
    try:
        tensors = json.loads(header)
        end = max((entry["data_offsets"][1] for name, entry in tensors.items() if name != "__metadata__"), default=0)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise VarError(f"{path}: not a safetensors file; fetch the model again") from None
    if 8 + length + end != size:
        raise VarError(f"{path}: {size} bytes, but its header says {8 + length + end}; fetch the model again")
    return header


def _samples(path: Path, size: int) -> Iterable[bytes]:
    last = max(size - _SAMPLE_BYTES, 0)
    whole = size <= _SAMPLES * _SAMPLE_BYTES
    starts = range(0, size, _SAMPLE_BYTES) if whole else [last * i // (_SAMPLES - 1) for i in range(_SAMPLES)]
    with path.open("rb") as stream:
        for start in starts:
            stream.seek(start)
            yield stream.read(_SAMPLE_BYTES)
