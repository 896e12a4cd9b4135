"""A shard, a small model to capture it with, and processes that do."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from capture_processes import CaptureProcesses, parent_of_captures
from captures import write_shard
from moe_models import build_model


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As in the processes: the bits of a forward pass depend on the number of threads that share it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def shard(tmp_path) -> Path:
    """Ten sequences of two domains."""
    return write_shard(tmp_path / "corpus" / "heldout-00000.parquet")


@pytest.fixture
def model(tmp_path, save_model) -> Path:
    """The ``model.json`` of a small Mixtral."""
    return save_model(build_model("mixtral"), tmp_path / "model")


@pytest.fixture(scope="session")
def parent() -> Iterator[subprocess.Popen]:
    """Forks captures; importing what they need takes seconds, so there is one for all tests."""
    with parent_of_captures() as process:
        yield process


@pytest.fixture
def processes(parent, shard, model) -> CaptureProcesses:
    """Starts processes that capture the shard."""
    return CaptureProcesses(parent, shard, model)
