"""Merging many shards: time and memory by their number; ``python -m`` merges once and prints what it took."""

import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from var_core.benchmarks.decisions import Shape, synthetic_batches
from var_core.benchmarks.document import Section
from var_core.benchmarks.environment import environment
from var_core.benchmarks.process import in_own_process, peak_bytes, resident_bytes, respond
from var_core.benchmarks.timing import Figure, figure
from var_core.parquet import write_batches
from var_core.progress import Progress
from var_core.statistics.accumulator import Accumulator
from var_core.statistics.stage import merge_shards
from var_core.statistics.tables import SCHEMAS

SHAPE = Shape(layers=32, vocabulary=32_000, experts=8, top_k=2, sequences=8, length=256)
NUMBERS = (125, 250, 500, 1000)
_RUNS = 3
_DISTINCT = 50
"""Shards with decisions of their own; the others repeat them. Merging does not see that."""
_MB = 1 << 20


def write_shards(folder: Path, number: int, shape: Shape = SHAPE, of: int | None = None) -> None:
    """Write the statistics of `number` shards, as the capture stage does, each of one batch of decisions.

    Parameters
    ----------
    folder : Path
        For ``{shard}.{kind}.parquet``.
    number : int
        How many.
    shape : Shape, optional
        Sizes.
    of : int, optional
        Number of shards that they say they are of.
    """
    accumulator = Accumulator(shape.layout, shape.vocabulary, torch.device("cpu"))
    distinct: list[dict[str, pa.Table]] = []
    for seed in range(min(_DISTINCT, number)):
        (batch,) = synthetic_batches(shape, 1, seed)
        accumulator.reset()
        accumulator.update(batch.tokens, batch.routed, 0)
        distinct.append(accumulator.tables("synthetic"))
    with Progress(number, "shard", "writing synthetic shards") as progress:
        for shard in range(number):
            record = {"run": "synthetic/decisions", "split": "capture", "plan": "benchmark", "shard": shard}
            record |= {"shards": of or number, "content": str(shard), "tokens": shape.tokens}
            for kind, table in distinct[shard % len(distinct)].items():
                write_batches(_path(folder, shard, kind), SCHEMAS[kind], _by_layer(table), record)
            progress.advance(1)


def _path(folder: Path, shard: int, kind: str) -> Path:
    return folder / f"{shard:05d}.{kind}.parquet"


def _by_layer(table: pa.Table) -> Iterator[pa.RecordBatch]:
    layer = table["layer"].to_numpy()
    borders = [0, *(np.flatnonzero(np.diff(layer)) + 1).tolist(), len(layer)]
    for start, stop in itertools.pairwise(borders):
        (batch,) = table.slice(start, stop - start).combine_chunks().to_batches()
        yield batch


def run_merge(folder: Path, number: int) -> dict[str, Any]:
    """Merge the shards of a folder.

    Returns
    -------
    dict
        Seconds, peak and starting memory in bytes, rows that went in and came out.
    """
    shards = [{kind: _path(folder, shard, kind) for kind in SCHEMAS} for shard in range(number)]
    with tempfile.TemporaryDirectory() as output:
        before, start = resident_bytes(), time.perf_counter()
        merge_shards(shards, Path(output), "benchmark")
        seconds = time.perf_counter() - start
        merged = {kind: _rows(Path(output, f"{kind}.parquet")) for kind in SCHEMAS}
    return {"seconds": seconds, "peak_bytes": peak_bytes(), "start_bytes": before, "merged_rows": merged}


def _rows(path: Path) -> int:
    return int(pq.read_metadata(path).num_rows)


def line(numbers: Sequence[int], seconds: Sequence[float]) -> dict[str, float]:
    """Least-squares line through times: seconds at no shards, seconds a shard, and R squared."""
    slope, intercept = np.polyfit(numbers, seconds, 1)
    residual = np.asarray(seconds) - (intercept + slope * np.asarray(numbers))
    spread = np.asarray(seconds) - np.mean(seconds)
    return {
        "intercept_s": float(intercept),
        "slope_s": float(slope),
        "r_squared": float(1 - residual @ residual / (spread @ spread)),
    }


def merging_section(numbers: Sequence[int] = NUMBERS, runs: int = _RUNS, shape: Shape = SHAPE) -> Section:
    """Merge each number of shards, `runs` times in turn, each in a process of its own."""
    found: dict[int, list[dict[str, Any]]] = {number: [] for number in numbers}
    with tempfile.TemporaryDirectory() as scratch:
        for number in numbers:
            folder = Path(scratch, str(number))
            folder.mkdir()
            write_shards(folder, number, shape)
        for _ in range(runs):
            for number in numbers:
                arguments = {"folder": str(Path(scratch, str(number))), "number": number}
                found[number].append(in_own_process("var_core.benchmarks.merging", arguments))
        bytes_in = sum(path.stat().st_size for path in Path(scratch, str(numbers[-1])).iterdir())
    figures: dict[str, Figure | str] = {}
    for number, times in found.items():
        figures[f"merge_seconds_{number}"] = figure([each["seconds"] for each in times], "seconds")
        peaks = [(each["peak_bytes"] - each["start_bytes"]) / _MB for each in times]
        figures[f"merge_peak_{number}"] = figure(peaks, "MB above start")
    fit = line(numbers, [statistics.median(each["seconds"] for each in found[number]) for number in numbers])
    figures["merge_r_squared"] = figure([fit["r_squared"]], "ratio", "line through the medians")
    about = {
        "shape": vars(shape),
        "fit": fit,
        "bytes_in": bytes_in,
        "merged_rows": found[numbers[-1]][0]["merged_rows"],
    }
    return Section("merging", environment(torch.device("cpu")), about, figures)


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    respond(run_merge(Path(given["folder"]), given["number"]))
