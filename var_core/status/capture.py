"""The state of every shard of a run's capture, with few operations on the file system.

One listing each of the folder of final files, of the state beside it and its locks, and of the logs; then one or two
files for each shard that is neither done nor waiting.
"""

import json
import os
import re
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from var_core.capture.lock import LOCKS, Owner
from var_core.config.capture import CaptureConfig
from var_core.statistics.tables import SCHEMAS
from var_core.status.logs import LogEnd, Work, read_end

State = Literal["done", "running", "failed", "resumable", "waiting"]
STATES: tuple[State, ...] = ("done", "running", "failed", "resumable", "waiting")
_OF_MICRO_SHARD = re.compile(
    r"(?P<split>.+)-(?P<first>\d{10})-[0-9a-f]{16}(?:\.lock-(?P<lock>\d+)|\.(?P<kind>\w+)\.parquet)?"
)
_LOCK_OF_SHARD = re.compile(r"(?P<split>.+)-(?P<shard>\d{5})\.lock-\d+")
"""Held while the shard's files are put together."""


@dataclass(frozen=True)
class ShardStatus:
    """How far one shard is.

    Attributes
    ----------
    split, shard
        Which one.
    state : str
        ``done``: its files are there. ``running``: a living process holds its lock. ``failed``: its last job ended in
        an error. ``resumable``: its last job ended or was killed, and the next goes on from what it left. ``waiting``:
        nothing of it is there.
    resumable : bool
        Whether the next job goes on from what this one left; of failed ones too.
    work : Work or None
        What the log last said of the progress.
    owner : str or None
        Who captures it now.
    lines : tuple of str
        Last lines of the log of a failed one; why a resumable one stopped, where it said so.
    log : str or None
        The log, where there is one.
    """

    split: str
    shard: int
    state: State
    resumable: bool = False
    work: Work | None = None
    owner: str | None = None
    lines: tuple[str, ...] = ()
    log: str | None = None


@dataclass
class _Left:
    """What a shard has under ``.state``."""

    locks: list[Path] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)
    files: int = 0


def read_shards(results: Path, model: str, corpus: str, config: CaptureConfig) -> Iterator[ShardStatus]:
    """Give the state of all shards of a run, split by split."""
    run = results / model / corpus
    folder = run / "capture"
    finals, left = set(_names(folder)), _left_behind(folder / ".state", run / "corpus" / "manifest.json")
    for split, shards in config.shards.model_dump().items():
        traced = split in config.trace
        logs = results / "logs" / ("capture_traced_shard" if traced else "capture_shard") / model / corpus
        logged = set(_names(logs))
        kinds = (*SCHEMAS, "trace") if traced else tuple(SCHEMAS)
        for shard in range(shards):
            stem = f"{split}-{shard:05d}"
            log = logs / f"{stem}.log" if f"{stem}.log" in logged else None
            mine = left.get((split, shard))
            if all(f"{stem}.{kind}.parquet" in finals for kind in kinds):
                yield ShardStatus(split, shard, "done")
            elif mine is None and log is None:
                yield ShardStatus(split, shard, "waiting")
            else:
                mine = mine or _Left()
                owners = (_living_owner(lock, config.lock_stale_s) for lock in sorted(mine.locks))
                owner = next(filter(None, owners), None)
                resumable = mine.files > 0 or any(map(_has_checkpoint, mine.folders))
                yield _unfinished(split, shard, owner, resumable, log)


def _unfinished(split: str, shard: int, owner: str | None, resumable: bool, log: Path | None) -> ShardStatus:
    end = read_end(log) if log else LogEnd()
    state: State = "resumable" if resumable else "waiting"
    lines: tuple[str, ...] = (end.stopped,) if end.stopped else ()
    if owner is not None:
        state = "running"
    elif end.error:
        state, lines = "failed", end.error
    work = end.work if state in ("running", "failed") or resumable else None
    return ShardStatus(split, shard, state, resumable, work, owner, lines, str(log) if log else None)


def _left_behind(state: Path, manifest: Path) -> Mapping[tuple[str, int], _Left]:
    """What each shard has under ``.state``: the one place that knows how the capture stage names things there.

    Names begin with the split and the number of a micro-shard's first sequence; in whose shard that is, the manifest
    of the corpus says.
    """
    names = _names(state)
    if not names:
        return {}
    shard_of = _shards_of_micro_shards(manifest)
    left: dict[tuple[str, int], _Left] = defaultdict(_Left)
    for name in [*names, *_names(state / LOCKS)]:
        if whole := _LOCK_OF_SHARD.fullmatch(name):
            left[whole["split"], int(whole["shard"])].locks.append(state / LOCKS / name)
        found = _OF_MICRO_SHARD.fullmatch(name)
        key = found and shard_of.get((found["split"], int(found["first"])))
        if not found or key is None:
            continue
        if found["lock"]:
            left[key].locks.append(state / LOCKS / name)
        elif found["kind"]:
            left[key].files += 1
        else:
            left[key].folders.append(state / name)
    return left


def _shards_of_micro_shards(manifest: Path) -> dict[tuple[str, int], tuple[str, int]]:
    """Split and first sequence of every micro-shard -> split and number of its shard; nothing without a manifest."""
    try:
        splits = json.loads(manifest.read_text(encoding="utf-8"))["splits"]
        return {
            (split, micro_shard["first"]): (split, shard)
            for split, record in splits.items()
            for shard, each in enumerate(record["shards"])
            for micro_shard in each["micro_shards"]
        }
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _has_checkpoint(folder: Path) -> bool:
    return any(name.startswith("checkpoint-") for name in _names(folder))


def _living_owner(lock: Path, stale_s: float) -> str | None:
    """Who holds a lock; None if nobody living does.

    The age of the heartbeat is taken by this machine's clock, since asking the file system for its own would mean to
    write a file.
    """
    try:
        silent = time.time() - lock.stat().st_mtime
        text = lock.read_text(encoding="utf-8")
    except OSError:
        return None
    try:
        owner = Owner(**json.loads(text))
    except (ValueError, TypeError):
        return "another process" if silent <= stale_s else None
    return None if silent > stale_s or owner.is_gone() else str(owner)


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208  names are all that is wanted of tens of thousands of files
    except (FileNotFoundError, NotADirectoryError):
        return []
