"""Peak memory of an accumulation job by its number of decisions; ``python -m`` runs one job and prints its peak.

The job is a capture job without the model: accumulator, checkpoints as the capture stage writes them, tables at the
end. Tables have rows only for token ids and experts that have occurred, so the vocabulary is small and its ids take
turns at being frequent: after a million decisions nearly all rows are there, and what grows then, grows with tokens.
"""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from var_core.benchmarks.decisions import Shape, synthetic_batches
from var_core.benchmarks.process import in_own_process, peak_bytes, resident_bytes, respond
from var_core.capture.checkpoint import CheckpointFolder, Progress
from var_core.parquet import write_table
from var_core.statistics.accumulator import Accumulator

SHAPE = Shape(layers=16, vocabulary=2048, experts=8, top_k=2, sequences=16, length=512)
POINTS = {1_000_000: 7, 10_000_000: 5, 100_000_000: 3}
"""Decisions -> how often the job is run: a single run's peak scatters, by what the allocator happens to do."""
_POOL = 4
_CHECKPOINT_BATCHES = 4
_SHIFT = 257
"""Token ids move on so far a batch: within a million decisions, 8 batches, every id has been among the frequent."""


def run_job(decisions: int, folder: Path, shape: Shape = SHAPE) -> dict[str, Any]:
    """Accumulate at least `decisions` decisions and write the tables.

    Parameters
    ----------
    decisions : int
        One decision is one token at one layer.
    folder : Path
        For checkpoints and tables.
    shape : Shape, optional
        Sizes.

    Returns
    -------
    dict
        Decisions counted by the statistics themselves, peak and starting memory in bytes, seconds, checkpoints.
    """
    pool = synthetic_batches(shape, _POOL)
    accumulator = Accumulator(shape.layout, shape.vocabulary, torch.device("cpu"))
    state, progress = CheckpointFolder(folder / "state", "benchmark"), Progress()
    before, start, checkpoints = resident_bytes(), time.perf_counter(), 0
    with torch.inference_mode():
        for index in range(-(-decisions // shape.decisions)):
            batch = pool[index % _POOL].rolled(index * _SHIFT, shape.vocabulary)
            accumulator.update(batch.tokens, batch.routed, index)
            progress.batches = index + 1
            if progress.batches % _CHECKPOINT_BATCHES == 0:
                state.save(progress, accumulator.state())
                checkpoints += 1
    tables = accumulator.tables("synthetic")
    for kind, table in tables.items():
        write_table(folder / f"{kind}.parquet", table, {})
    return {
        "decisions": sum(tables["layer_stats"]["tokens"].to_pylist()),
        "peak_bytes": peak_bytes(),
        "start_bytes": before,
        "seconds": time.perf_counter() - start,
        "checkpoints": checkpoints,
        "rows": tables["expert_counts"].num_rows,
    }


def curve(points: Mapping[int, int] = POINTS) -> dict[str, Any]:
    """Run jobs of each size, each in a process of its own.

    Parameters
    ----------
    points : mapping, optional
        Decisions -> runs.

    Returns
    -------
    dict
        ``points`` with the median, lowest and highest peak of each size, and ``largest_deviation``: of a median from
        the first point's, as a share of it.
    """
    found = []
    for decisions, runs in points.items():
        jobs = [in_own_process("var_core.benchmarks.flat", {"decisions": decisions}) for _ in range(runs)]
        peaks = [job["peak_bytes"] for job in jobs]
        found.append(
            {
                "decisions": jobs[0]["decisions"],
                "runs": runs,
                "checkpoints": jobs[0]["checkpoints"],
                "rows": jobs[0]["rows"],
                "seconds": statistics.median(job["seconds"] for job in jobs),
                "peak_bytes": {"median": statistics.median(peaks), "minimum": min(peaks), "maximum": max(peaks)},
            }
        )
    first = found[0]["peak_bytes"]["median"]
    deviation = max(abs(each["peak_bytes"]["median"] - first) / first for each in found)
    return {"points": found, "largest_deviation": deviation, "shape": vars(SHAPE)}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        respond(run_job(json.loads(sys.argv[1])["decisions"], Path(scratch)))
