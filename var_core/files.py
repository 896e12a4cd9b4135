"""Writing files so that they are whole or absent, and the digests that identify what is in them."""

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from var_core.errors import VarError

_CHUNK_BYTES = 1 << 20
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def canonical_json(value: Any) -> str:
    """Return JSON that is the same for the same value: keys sorted, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True)


def digest_of(value: Any) -> str:
    """SHA-256 of a JSON-serialisable value, as 64 hexadecimal digits."""
    return hashlib.sha256(canonical_json(value).encode("ascii")).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; fsync and rename it when the block ends well, else remove it.

    A reader therefore sees the old file, or the whole new one, and never a part of it, also after a
    power cut: the bytes are on disk before the name is.

    Raises
    ------
    VarError
        If the disk is full; `path` is what it was.
    """
    with disk_full_in_one_line(path):
        if not path.parent.is_dir():
            path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            yield aside
            with aside.open("rb") as stream:
                os.fsync(stream.fileno())
            aside.replace(path)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise
        _fsync_folder(path.parent)


def remove_asides(folder: Path, start: str = "") -> None:
    """Remove what killed writers left in a folder, of files whose names begin so.

    Only for one who knows that nobody is writing these files.
    """
    for aside in folder.glob(f".{start}*.tmp"):
        aside.unlink(missing_ok=True)


@contextmanager
def disk_full_in_one_line(path: Path) -> Iterator[None]:
    """Turn what the system says when there is no room for `path` into one line that says what to do.

    Raises
    ------
    VarError
        On a full disk, an exhausted quota, or a file over the size that the process may write.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        raise VarError(
            f"{path.parent}: no room to write {path.name} ({os.strerror(error.errno)}); free space there, or raise the "
            "quota, and run again: what was finished before is kept"
        ) from None


def _fsync_folder(folder: Path) -> None:
    """Make a rename in `folder` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, whole or not at all."""
    with written_aside(path) as aside:
        aside.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON with sorted keys, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises
    ------
    VarError
        If the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise VarError(f"{path}: no such file; run the stage that makes it") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise VarError(f"{path}: not valid JSON ({error}); delete it and run its stage again") from None
