import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

from moe_models import COMMON, MOE_CONFIGS
from var_core.errors import VarError
from var_core.routing.sites import find_sites


def test_every_family_has_one_site_a_layer_with_its_experts(moe_model, family):
    config = MOE_CONFIGS[family]()
    sites = find_sites(moe_model)
    experts = getattr(config, "num_local_experts", None) or config.num_experts
    assert [site.path for site in sites] == [f"model.layers.{layer}.mlp.experts" for layer in range(3)]
    assert [site.router_path for site in sites] == [f"model.layers.{layer}.mlp.gate" for layer in range(3)]
    assert {site.number_of_experts for site in sites} == {experts}


def test_base_model_has_the_same_sites(moe_model):
    assert [s.path for s in find_sites(moe_model.model)] == [
        s.path.removeprefix("model.") for s in find_sites(moe_model)
    ]


def test_dense_layers_between_are_no_sites():
    torch.manual_seed(0)
    config = Qwen3MoeConfig(
        **COMMON, head_dim=8, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24, mlp_only_layers=[1]
    )
    sites = find_sites(Qwen3MoeForCausalLM(config))
    assert [(site.layer, site.path) for site in sites] == [
        (0, "model.layers.0.mlp.experts"),
        (1, "model.layers.2.mlp.experts"),
    ]


def test_dense_model_is_refused():
    model = LlamaForCausalLM(LlamaConfig(**COMMON))
    with pytest.raises(VarError, match=r"LlamaForCausalLM has no MoE layers.*choose a Mixture-of-Experts model"):
        find_sites(model)


def test_experts_without_router_are_refused():
    class Experts(nn.Module):
        def forward(self, hidden_states, top_k_index, top_k_weights):
            return hidden_states

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.experts = Experts()
            self.norm = nn.Identity()

    with pytest.raises(VarError, match=r"no router found beside the experts at experts .*experts, norm"):
        find_sites(Block())
