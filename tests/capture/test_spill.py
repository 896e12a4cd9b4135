"""Statistics under a limit of memory: what does not fit goes to disk in parts, and merges to the same."""

import pytest
import torch
from transformers import AutoModelForCausalLM, MixtralConfig

from captures import CONFIG, assert_same_up_to_rounding, capture, contents, interrupted_at, write_shard
from moe_models import COMMON
from var_core.errors import VarError

LIMITED = CONFIG.model_copy(update={"max_state_mb": 1})


def many_experts(experts):
    """A model whose counts by token id take so much memory that 1 MB does not hold all 97 of the vocabulary."""
    torch.manual_seed(0)
    small = {**COMMON, "hidden_size": 16, "intermediate_size": 8, "num_local_experts": experts}
    return AutoModelForCausalLM.from_config(MixtralConfig(**small)).eval().requires_grad_(False)


@pytest.fixture
def model(tmp_path, save_model):
    return save_model(many_experts(384), tmp_path / "model")


def test_a_limit_of_memory_changes_roundings_only(tmp_path, shard, model, caplog):
    caplog.set_level("INFO")
    whole = capture(shard, model, tmp_path / "whole")
    assert "to stay under capture.max_state_mb" not in caplog.text
    limited = capture(shard, model, tmp_path / "limited", LIMITED)
    assert "put on disk, to stay under capture.max_state_mb" in caplog.text
    assert_same_up_to_rounding(whole, limited)


@pytest.mark.parametrize("batch", [1, 3, 4])
def test_a_resumed_capture_under_a_limit_is_byte_identical(tmp_path, shard, model, batch):
    whole = contents(capture(shard, model, tmp_path / "whole", LIMITED))
    with interrupted_at(batch):
        capture(shard, model, tmp_path / "out", LIMITED)
    assert contents(capture(shard, model, tmp_path / "out", LIMITED)) == whole


def test_a_limit_that_one_batch_is_over_is_refused(tmp_path, model):
    shard = write_shard(tmp_path / "long.parquet", sequences=10, length=64)
    with pytest.raises(VarError, match=r"capture\.max_state_mb: .+ raise it"):
        capture(shard, model, tmp_path / "out", LIMITED)
