"""The statistics stage: all shards of a split become one set of tables."""

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from var_core.errors import VarError
from var_core.parquet import read_provenance
from var_core.progress import Progress
from var_core.statistics.streaming import write_merged
from var_core.statistics.tables import SCHEMAS

AT_ONCE = 128
"""Files that are merged in one go. What has to be known of each, where its rows are, takes half a megabyte."""

_SCRATCH = ".merging-"


def merge_shards(shards: Sequence[dict[str, Path]], output: Path, code: str) -> None:
    """Merge the statistics of all shards of a split, one domain and layer after another.

    The order is that of the shards' numbers, whatever order they are given in, so the result does not depend on
    which job finished first. The rows of one domain and layer are in memory at a time, and so much of at most
    :data:`AT_ONCE` files: more than that are merged group by group first, in files beside the output.

    Parameters
    ----------
    shards : sequence of dict
        For each shard the paths of its tables by kind.
    output : Path
        Folder that gets ``token_stats.parquet``, ``expert_counts.parquet`` and ``layer_stats.parquet``.
    code : str
        Digest of the stage's code.

    Raises
    ------
    VarError
        If a shard was captured under another plan, is missing, or is there twice.
    """
    ordered = _in_order([(files, read_provenance(files["layer_stats"])) for files in shards])
    provenance = _merged_provenance([record for _, record in ordered], code)
    for files, record in ordered:
        for kind in SCHEMAS:
            if read_provenance(files[kind])["plan"] != record["plan"]:
                raise _other_plan(files[kind])
    for stale in output.glob(f"{_SCRATCH}*"):  # of a job that was killed; this one is alone here
        shutil.rmtree(stale, ignore_errors=True)
    with Progress(len(SCHEMAS), "table", f"merge {provenance['run']} {provenance['split']}") as progress:
        for kind in SCHEMAS:
            _merge(kind, [files[kind] for files, _ in ordered], output / f"{kind}.parquet", provenance)
            progress.advance(1)


def _merge(kind: str, paths: Sequence[Path], output: Path, provenance: dict[str, Any]) -> None:
    if len(paths) <= AT_ONCE:
        write_merged(kind, paths, output, provenance)
        return
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=output.parent) as scratch:
        groups = []
        for start in range(0, len(paths), AT_ONCE):
            groups.append(Path(scratch, f"{start:08d}.parquet"))
            write_merged(kind, paths[start : start + AT_ONCE], groups[-1], provenance)
        _merge(kind, groups, output, provenance)


def _other_plan(path: Path) -> VarError:
    return VarError(
        f"{path}: this shard was captured under another plan (model, corpus, settings or code) than the others; "
        "delete it and run the capture stage again"
    )


def _in_order(shards: list[tuple[dict[str, Path], dict[str, Any]]]) -> list[tuple[dict[str, Path], dict[str, Any]]]:
    """Sort shards by number, after checking that each is there once and all follow one plan."""
    shards = sorted(shards, key=lambda item: item[1]["shard"])
    first = shards[0][1]
    for files, record in shards:
        if record["plan"] != first["plan"]:
            raise _other_plan(files["layer_stats"])
    numbers = [record["shard"] for _, record in shards]
    if numbers != list(range(first["shards"])):
        raise VarError(
            f"{first['run']} {first['split']}: shards {numbers} were given, the plan has 0 to {first['shards'] - 1}, "
            "each once; run the capture stage again"
        )
    return shards


def _merged_provenance(records: list[dict[str, Any]], code: str) -> dict[str, Any]:
    merged = {key: value for key, value in records[0].items() if key not in ("shard", "content", "tokens")}
    return {
        **merged,
        "stage": "statistics",
        "statistics_code": code,
        "contents": [record["content"] for record in records],
        "tokens": sum(record["tokens"] for record in records),
    }
