"""A results folder of one run, with real captures that write it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from capture_processes import ROOT, CaptureProcesses
from captures import write_shard
from moe_models import build_model

CONFIG = {
    "runs": [{"model": "mine", "corpus": "text"}],
    "models": {"mine": {"source": "folder", "path": "model"}},
    "corpora": {"text": {"source": "files", "format": "text", "domains": {"prose": ["*.txt"]}}},
    "capture": {
        "shards": {"capture": 2, "calibration": 1, "tuning": 1, "heldout": 1},
        "trace": ["calibration", "tuning", "heldout"],
    },
    "policy": {"tables": ["token"]},
}
# Captures as stages run them: with a log file of their own, here with a line of progress at every moment.
STAGES = """
import resource, sys
from pathlib import Path
import capture_processes
from var_core import progress

progress._SECONDS_BETWEEN_LINES = 0.05

def stage(shard, model, folder, log, seconds, largest_file, config):
    from captures import CONFIG, capture
    from var_core.job import logged
    try:
        with logged(log):
            if largest_file is not None:
                import signal
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, resource.RLIM_INFINITY))
            try:
                capture(Path(shard), Path(model), Path(folder), CONFIG.model_copy(update=config), seconds=seconds)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    except SystemExit as end:
        return end.code
    return 0

capture_processes._capture = stage
capture_processes.main()
"""


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    """The configuration of the run."""
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(CONFIG))
    return path


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """The folder of the results, with the manifest of the corpus."""
    write_manifest(tmp_path / "results", {"capture": [0, 10], "heldout": [40]})
    return tmp_path / "results"


def write_manifest(results: Path, firsts: dict[str, list[int]]) -> None:
    """Say of each split's shards, of one micro-shard each, which their first sequences are."""
    splits = {
        split: {"shards": [{"micro_shards": [{"first": first}]} for first in numbers]}
        for split, numbers in firsts.items()
    }
    folder = results / "mine" / "text" / "corpus"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").write_text(json.dumps({"splits": splits}))


@pytest.fixture
def stages(tmp_path: Path, save_model: Callable) -> Iterator[CaptureProcesses]:
    """Starts real captures of the held-out shard."""
    shard = write_shard(tmp_path / "corpus" / "heldout-00000.parquet", sequences=600)
    model = save_model(build_model("mixtral"), tmp_path / "model")
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", STAGES]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as parent:
        try:
            yield CaptureProcesses(parent, shard, model)
        finally:
            parent.stdin.close()
            parent.wait(timeout=60)
