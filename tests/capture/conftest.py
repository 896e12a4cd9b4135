"""A shard, and a small model to capture it with."""

from pathlib import Path

import pytest

from captures import write_shard
from moe_models import build_model


@pytest.fixture
def shard(tmp_path) -> Path:
    """Ten sequences of two domains."""
    return write_shard(tmp_path / "corpus" / "heldout-00000.parquet")


@pytest.fixture
def model(tmp_path, save_model) -> Path:
    """The ``model.json`` of a small Mixtral."""
    return save_model(build_model("mixtral"), tmp_path / "model")
