"""What `snakemake -n` takes for ten thousand micro-shards, by the number of jobs that work through them."""

import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from var_core.benchmarks.document import Section
from var_core.benchmarks.environment import environment
from var_core.benchmarks.process import peak_of
from var_core.benchmarks.timing import FEWEST_ROUNDS, Figure, figure
from var_core.errors import VarError
from var_core.report.pages import ROOT

MICRO_SHARDS = {"capture": 8000, "calibration": 500, "tuning": 500, "heldout": 1000}
JOBS = (100, 200, 400, 1000)
"""Capture jobs; a tenth of them for held-out text."""
_MB = 1 << 20
_LOOK_SECONDS = 0.02


def dry_run(jobs: int) -> dict[str, float]:
    """Let Snakemake plan the whole default workflow from nothing.

    Parameters
    ----------
    jobs : int
        Capture jobs that 10,000 micro-shards are shared out among.

    Returns
    -------
    dict
        Seconds, peak memory in bytes, and capture jobs that it plans.

    Raises
    ------
    VarError
        If Snakemake fails.
    """
    each = sum(MICRO_SHARDS.values()) // jobs
    shards = {split: number // each for split, number in MICRO_SHARDS.items()}
    with tempfile.TemporaryDirectory() as scratch:
        # YAML is a superset of JSON.
        Path(scratch, "scale.yaml").write_text(
            json.dumps({"capture": {"shards": shards, "micro_shards": MICRO_SHARDS}}), encoding="utf-8"
        )
        command = [sys.executable, "-m", "snakemake", "-n", "--cores", "1", "--snakefile", str(ROOT / "Snakefile")]
        command += ["--directory", scratch, "--configfile", str(ROOT / "config/config.yaml"), f"{scratch}/scale.yaml"]
        with Path(scratch, "plan.txt").open("w+", encoding="utf-8") as plan:
            start = time.perf_counter()
            run = subprocess.Popen(command, stdout=plan, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
            peak = 0
            while run.poll() is None:
                peak = max(peak, peak_of(run.pid))
                time.sleep(_LOOK_SECONDS)
            seconds = time.perf_counter() - start
            plan.seek(0)
            said = plan.read()
    if run.returncode:
        raise VarError(f"benchmark dry-run: snakemake -n failed ({run.returncode}): {said.strip().splitlines()[-1]}")
    planned = len(re.findall(r"^Job \d+: Capturing ", said, re.MULTILINE))
    return {"seconds": seconds, "peak_bytes": peak, "planned": planned}


def dry_run_section(jobs: Sequence[int] = JOBS, rounds: int = FEWEST_ROUNDS) -> Section:
    """Plan each number of jobs, in turn, `rounds` times."""
    found: dict[int, list[dict[str, float]]] = {number: [] for number in jobs}
    for _ in range(rounds):
        for number in jobs:
            found[number].append(dry_run(number))
    figures: dict[str, Figure | str] = {}
    for number, runs in found.items():
        figures[f"dry_run_seconds_{number}"] = figure([run["seconds"] for run in runs], "seconds")
        figures[f"dry_run_peak_{number}"] = figure([run["peak_bytes"] / _MB for run in runs], "MB")
    about: dict[str, Any] = {"micro_shards": MICRO_SHARDS, "jobs": list(jobs), "rounds": rounds}
    return Section("dry_run", environment(torch.device("cpu")), about, figures)
