import pytest
import torch
from torch import nn
from transformers import (
    DeepseekV3Config,
    DeepseekV3Model,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from moe_families.build import build_family, tokens
from moe_families.wholes import build_whole
from moe_models import COMMON, MOE_CONFIGS, build_model
from var_core.errors import VarError
from var_core.routing.inputs import text_inputs
from var_core.routing.recorder import Recorder
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


def test_a_block_by_itself_is_a_model_too():
    block = build_model("mixtral").model.layers[0].mlp
    assert [(s.path, s.router_path) for s in find_sites(block)] == [("experts", "gate")]


def test_detection_needs_no_weights():
    with torch.device("meta"):
        model = DeepseekV3Model(DeepseekV3Config())
    sites = find_sites(model)
    assert len(sites) == 58
    assert (sites[0].path, sites[0].number_of_experts) == ("layers.3.mlp.experts", 256)


def test_quantised_experts_have_flat_parameters():
    model = build_model("mixtral")
    for layer in model.model.layers:
        layer.mlp.experts.gate_up_proj = nn.Parameter(layer.mlp.experts.gate_up_proj.flatten())
        layer.mlp.experts.down_proj = nn.Parameter(layer.mlp.experts.down_proj.flatten())
    assert {site.number_of_experts for site in find_sites(model)} == {8}


def test_layers_that_route_pixels_are_left_out_and_logged(caplog):
    model = build_whole("dots3_note")
    with caplog.at_level("INFO"):
        sites = find_sites(model)
    assert all(site.path.startswith("language_model.") for site in sites)
    assert len(caplog.messages) == 17
    assert caplog.messages[0] == "MoE layer vision_tower.blocks.25.mlp.experts routes pixel_values, not text: left out"


def test_excluded_layers_are_left_out():
    model = build_model("mixtral")
    sites = find_sites(model, exclude=("model.layers.1.*",))
    assert [(s.layer, s.path) for s in sites] == [(0, "model.layers.0.mlp.experts"), (1, "model.layers.2.mlp.experts")]


def test_a_pattern_that_fits_nothing_is_refused():
    expected = r"exclude_sites: '\*\.vision\.\*' fits no MoE layer .*the first of 3 is model\.layers\.0\.mlp\.experts"
    with pytest.raises(VarError, match=expected):
        find_sites(build_model("mixtral"), exclude=("*.vision.*",))


def test_a_layer_that_text_does_not_reach_says_how_to_leave_it_out():
    model = build_family("ernie4_5_vl_moe")
    with torch.inference_mode(), Recorder(find_sites(model)) as recorder:
        model(**text_inputs(model, tokens()))
        expected = r"3 of 6 MoE layers .*first layers\.1\.mlp\.vision_moe\.experts: .*models\.<name>\.exclude_sites"
        with pytest.raises(VarError, match=expected):
            recorder.take()


def test_attention_that_is_routed_runs_before_the_mlp():
    paths = [site.path for site in find_sites(build_family("jetmoe"))]
    assert paths[:4] == [
        "layers.0.self_attention.experts",
        "layers.0.mlp",
        "layers.1.self_attention.experts",
        "layers.1.mlp",
    ]


def test_routing_without_effect_is_refused():
    with pytest.raises(VarError, match=r"NllbMoeExperts: not supported: .*only experts 0 and 1 ever run"):
        find_sites(build_family("nllb_moe"))
