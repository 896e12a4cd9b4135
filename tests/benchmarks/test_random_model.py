import pytest
import torch
from transformers import Qwen3MoeConfig

from var_core.benchmarks.capture import Contenders
from var_core.benchmarks.random_model import largest_that_fits, qwen3_shape, random_subject
from var_core.errors import VarError


def small():
    return Qwen3MoeConfig(
        vocab_size=500, hidden_size=32, moe_intermediate_size=16, num_hidden_layers=6, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, num_experts=8, num_experts_per_tok=2, norm_topk_prob=True,
        max_position_embeddings=512,
    )  # fmt: skip


def bytes_of(config):
    return sum(p.nbytes for p in random_subject(config, torch.device("cpu"), torch.float32).causal.parameters())


def test_the_model_is_the_largest_that_fits():
    limit = bytes_of(largest_that_fits(small(), 1 << 40, torch.float32))
    assert largest_that_fits(small(), limit, torch.float32).num_hidden_layers == 6
    fitting = largest_that_fits(small(), limit - 1, torch.float32)
    assert fitting.num_hidden_layers == 5 and bytes_of(fitting) < limit
    with pytest.raises(VarError, match="do not hold one layer"):
        largest_that_fits(small(), 1000, torch.float32)


def test_the_whole_shape_is_that_of_a_30_billion_model():
    assert largest_that_fits(qwen3_shape(), 62 << 30, torch.bfloat16).num_hidden_layers == 48
    assert largest_that_fits(qwen3_shape(), 30 << 30, torch.bfloat16).num_hidden_layers < 26


def test_a_random_subject_runs_in_half_precision():
    subject = random_subject(small(), torch.device("cpu"), torch.bfloat16)
    assert {int(x.token_ids.min()) for x in subject.inputs} == {0}
    assert max(int(x.token_ids.max()) for x in subject.inputs) < 500
    contenders = Contenders(subject, max_state_bytes=1 << 24)
    for run in contenders.runs().values():
        with torch.inference_mode():
            run(0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_all_ways_agree():
    Contenders(random_subject(small(), torch.device("cuda"), torch.bfloat16)).check()
