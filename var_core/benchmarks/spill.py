"""A model whose dense statistics would need gigabytes, kept within a limit by partial sums on disk.

``python -m var_core.benchmarks.spill`` with ``{"job": "limited", ...}`` accumulates under the limit and merges the
parts; with ``{"job": "compare", ...}`` it checks the result against an accumulator without a limit.
"""

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from var_core.benchmarks.decisions import Decisions, Shape, synthetic_batches
from var_core.benchmarks.equality import FLOAT64, check_same_statistics
from var_core.benchmarks.process import in_own_process, peak_bytes, resident_bytes, respond
from var_core.errors import VarError
from var_core.statistics.accumulator import Accumulator, TokenBatch
from var_core.statistics.streaming import write_layers, write_merged
from var_core.statistics.tables import SCHEMAS
from var_core.statistics.token_state import row_bytes

SHAPE = Shape(layers=48, vocabulary=151_936, experts=128, top_k=8, sequences=8, length=256)
LIMIT = 512 << 20
BATCHES = 32
_COMPARED_IDS = 512
_POOL = 2
_SHIFT = 613


def batches(shape: Shape, number: int) -> Iterator[Decisions]:
    """The batches of the job, always the same ones."""
    pool = synthetic_batches(shape, _POOL)
    for index in range(number):
        yield pool[index % _POOL].rolled(index * _SHIFT, shape.vocabulary)


def limited(shape: Shape, number: int, limit: int, folder: Path) -> dict[str, Any]:
    """Accumulate under a limit: when a batch has no room, the tables become a part on disk and the state starts anew.

    Parameters
    ----------
    shape : Shape
        Sizes.
    number : int
        Batches.
    limit : int
        Bytes of state.
    folder : Path
        Gets the parts, and the merged tables under ``merged``.

    Returns
    -------
    dict
        Parts, seconds, the largest state, and peaks above the memory before the job, in bytes.

    Raises
    ------
    VarError
        If the limit was never reached, which would show nothing.
    """
    work = batches(shape, number)
    first = next(work)
    before, start, parts, state = resident_bytes(), time.perf_counter(), 0, 0
    accumulator = Accumulator(shape.layout, shape.vocabulary, torch.device("cpu"), max_state_bytes=limit)
    with torch.inference_mode():
        for index, batch in enumerate((first, *work)):
            if not accumulator.has_room(batch.token_ids):
                parts += _put_part(accumulator, folder, parts)
            accumulator.update(batch.tokens, batch.routed, index)
            state = max(state, sum(tensor.nbytes for tensor in accumulator.state().values()))
    if not parts:
        raise VarError(f"benchmark spilled statistics: {number} batches fit into {limit} bytes; give it more batches")
    parts += _put_part(accumulator, folder, parts)
    accumulated, accumulate_seconds = peak_bytes(), time.perf_counter() - start
    del accumulator
    for kind in SCHEMAS:
        paths = [folder / f"{kind}-{part:05d}.parquet" for part in range(parts)]
        write_merged(kind, paths, folder / "merged" / f"{kind}.parquet", {})
    return {
        "parts": parts,
        "decisions": number * shape.decisions,
        "before_bytes": before,
        "state_bytes": state,
        "accumulate_peak_bytes": accumulated - before,
        "merge_peak_bytes": peak_bytes() - before,
        "accumulate_seconds": accumulate_seconds,
        "merge_seconds": time.perf_counter() - start - accumulate_seconds,
        "token_rows": pq.read_metadata(folder / "merged" / "token_stats.parquet").num_rows,
    }


def _put_part(accumulator: Accumulator, folder: Path, part: int) -> int:
    paths = {kind: folder / f"{kind}-{part:05d}.parquet" for kind in SCHEMAS}
    write_layers(paths, accumulator.tables_by_layer("synthetic"))
    accumulator.reset()
    return 1


def compare(shape: Shape, number: int, folder: Path, compared_ids: int = _COMPARED_IDS) -> dict[str, Any]:
    """Compare the merged tables with those of an accumulator that never spilled.

    Rows of the lowest token ids are compared one by one, and the sums over all; all other ids are one id to the second
    accumulator, which therefore needs little memory. What is kept by layer does not depend on token ids and is
    compared whole.

    Returns
    -------
    dict
        Numbers of rows that are the same.

    Raises
    ------
    VarError
        If anything differs: counts at all, moments and sums by more than 1e-12.
    """
    accumulator = Accumulator(shape.layout, compared_ids + 1, torch.device("cpu"))
    with torch.inference_mode():
        for index, batch in enumerate(batches(shape, number)):
            ids = batch.token_ids.clamp_max(compared_ids)
            tokens = TokenBatch(ids, batch.tokens.continues, batch.tokens.sequences)
            accumulator.update(tokens, batch.routed, index)
    merged, expected = {}, {}
    for kind, table in accumulator.tables("synthetic").items():
        only = [("token_id", "<", compared_ids)] if "token_id" in table.column_names else None
        merged[kind] = pq.read_table(folder / "merged" / f"{kind}.parquet", filters=only)
        expected[kind] = table if only is None else table.filter(pq.filters_to_expression(only))
    check_same_statistics(expected, merged, "spilled statistics", FLOAT64)
    _check_all_ids(folder / "merged" / "expert_counts.parquet", expected["layer_stats"])
    rows = {kind: table.num_rows for kind, table in expected.items()}
    if not all(rows.values()):
        raise VarError(f"benchmark spilled statistics: nothing to compare ({rows})")
    return {"same_rows": rows}


def _check_all_ids(merged: Path, layer_stats: pa.Table) -> None:
    """Check that the merged counts, over all token ids, add up to those of the layers."""
    counts = pq.read_table(merged, columns=["layer", "expert", "chosen", "first"]).group_by(["layer", "expert"])
    sums = counts.aggregate([("chosen", "sum"), ("first", "sum")])
    for name in ("chosen", "first"):
        expected = np.array(layer_stats[name].to_pylist())
        found = np.zeros_like(expected)
        found[sums["layer"].to_numpy(), sums["expert"].to_numpy()] = sums[f"{name}_sum"].to_numpy()
        if not np.array_equal(found, expected):
            raise VarError(f"benchmark spilled statistics: {name} over all token ids is not that of the layers")


def spilled(shape: Shape = SHAPE, number: int = BATCHES, limit: int = LIMIT) -> dict[str, Any]:
    """Run both jobs, each in a process of its own, and put their answers together."""
    with tempfile.TemporaryDirectory() as folder:
        given = {"shape": vars(shape), "batches": number, "limit": limit, "folder": folder}
        answers = [in_own_process("var_core.benchmarks.spill", {"job": job, **given}) for job in ("limited", "compare")]
    about = {"shape": vars(shape), "limit_bytes": limit, "dense_bytes": shape.vocabulary * row_bytes(shape.layout)}
    return {**about, **answers[0], **answers[1]}


def _main(given: dict[str, Any]) -> dict[str, Any]:
    shape, folder = Shape(**given["shape"]), Path(given["folder"])
    if given["job"] == "limited":
        return limited(shape, given["batches"], given["limit"], folder)
    return compare(shape, given["batches"], folder)


if __name__ == "__main__":
    respond(_main(json.loads(sys.argv[1])))
