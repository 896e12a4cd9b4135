"""The shape of models: every parameter is in one part, and known models come out as published."""

import json
from pathlib import Path

import pytest
import torch
from transformers import Qwen3VLMoeConfig

from moe_families.build import _model_class, _quiet
from moe_families.configs import EXCLUDED, FAMILIES, tiny_config
from moe_models import build_model
from var_core.errors import VarError
from var_core.routing.sites import find_sites
from var_core.systems.counts import count
from var_core.systems.detect import shape_of, shape_of_config, shape_of_folder
from var_core.systems.shape import ModelShape, shape_of_recorded
from var_core.systems.shape_file import read_shape, write_shape

NO_WHOLE = {"nllb_moe", "longcat_flash"}  # refused; identity experts that hold only a half of their parameters


def tiny_shape(family: str) -> ModelShape:
    with _quiet(), torch.device("meta"):
        config = tiny_config(family)
        model = _model_class(type(config))(config)
    shape = shape_of(model, find_sites(model, EXCLUDED.get(family, ())), family)
    assert family in NO_WHOLE or shape.total_parameters == sum(one.numel() for one in model.parameters())
    return shape


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"nllb_moe"}))
def test_every_parameter_of_a_family_is_in_one_part(family):
    shape = tiny_shape(family)
    assert shape.hidden == 32 and shape.vocabulary == 97
    for layer in (layer for layer in shape.layers if layer.experts):
        assert layer.experts.each.matrix > 0
        assert family == "doge" or layer.gate.matrix >= 32 * layer.experts.number


def test_parts_are_told_apart():
    layers = tiny_shape("deepseek_v3").layers
    assert layers[0].experts is None and layers[0].dense.matrix == 3 * 32 * 48
    last = layers[-1]
    assert last.dense is None and last.gate.matrix == 8 * 32
    assert last.experts.each.matrix == last.shared_experts.matrix == 3 * 32 * 24
    assert (last.experts.number, last.experts.top_k) == (8, 2)
    assert {layer.experts.top_k for layer in tiny_shape("hunyuan_v1_moe").layers} == {1, 2, 3}
    assert [layer.attention is None for layer in tiny_shape("nemotron_h").layers] == [False, True, False, True]


def test_how_tokens_are_mixed():
    latent = tiny_shape("deepseek_v3").layers[0].mixing[0]
    assert (latent.score_width, latent.value_width, latent.key_value_width) == (4 * 16, 4 * 8, 16 + 8)
    assert (latent.decode_score_width, latent.decode_value_width) == (4 * 24, 4 * 16)
    assert [layer.mixing[0].window for layer in tiny_shape("gpt_oss").layers] == [16, None, 16, None]
    assert [layer.mixing[0].state_width for layer in tiny_shape("qwen3_next").layers] == [4 * 8 * 8, 0, 4 * 8 * 8, 0]
    assert tiny_shape("deepseek_v32").layers[1].mixing[0].window == 16
    wide = tiny_shape("mimo_v2_flash").layers[0].mixing[0]
    assert (wide.score_width, wide.value_width) == (4 * 16, 4 * 8)


def test_embeddings_that_are_the_head_too_count_once():
    model = build_model("olmoe")
    sites = find_sites(model)
    apart = shape_of(model, sites, "apart")
    model.lm_head.weight = model.model.embed_tokens.weight
    tied = shape_of(model, sites, "tied")
    assert tied.tied and tied.head == apart.head
    assert apart.total_parameters - tied.total_parameters == 97 * 32
    assert shape_of(model.model, find_sites(model.model), "headless").head is None


def test_bytes_are_those_of_the_model():
    model = build_model("qwen2_moe").to(torch.bfloat16)
    shape = shape_of(model, find_sites(model), "mine")
    assert shape.weight_bytes == sum(one.nbytes for one in model.parameters())
    assert shape.expert_bytes(0) == 2 * shape.expert_parameters(0) == 2 * 3 * 32 * 24
    assert shape.with_expert_bytes(0.5).expert_bytes(2) == 0.5 * 3 * 32 * 24


def test_a_shape_survives_its_file(tmp_path: Path):
    for shape in (tiny_shape("deepseek_v3"), shape_of_recorded("elsewhere", 2, 8, 2, [10, 20])):
        write_shape(tmp_path / "shape.json", shape)
        assert read_shape(tmp_path / "shape.json") == shape


def test_a_file_that_is_no_shape_is_refused(tmp_path: Path):
    (tmp_path / "shape.json").write_text(json.dumps({"name": "x", "layers": []}))
    with pytest.raises(VarError, match=r"shape.json: not the shape of a model"):
        read_shape(tmp_path / "shape.json")


def test_a_folder_is_enough(tmp_path: Path):
    model = build_model("mixtral")
    model.config.save_pretrained(tmp_path)
    assert shape_of_folder(tmp_path, "mine", "float32").layers == shape_of(model, find_sites(model), "mine").layers
    packed = shape_of_folder(tmp_path, "mine", "bfloat16", expert_bytes_a_parameter=0.5)
    model.config.dtype = torch.float16
    model.config.save_pretrained(tmp_path)
    assert shape_of_folder(tmp_path, "mine").dtype_bytes == 2
    assert packed.dtype_bytes == 2 and packed.expert_bytes(0) == packed.expert_parameters(0) / 2


@pytest.mark.parametrize("content", ["{}", '{"model_type": "no such"}'])
def test_a_folder_of_no_known_architecture_is_refused_in_one_line(tmp_path: Path, content: str):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(VarError, match=r"config.json cannot be used") as raised:
        shape_of_folder(tmp_path, "mine")
    assert "\n" not in str(raised.value)


def test_what_was_recorded_elsewhere_has_experts_only():
    shape = shape_of_recorded("elsewhere", layers=3, experts=64, top_k=8)
    assert shape.moe_places == (0, 1, 2) and shape.layers[1].attention is None
    with pytest.raises(VarError, match="elsewhere: the bytes of an expert were not recorded"):
        shape.expert_bytes(0)
    with pytest.raises(VarError, match="needs the model itself"):
        _ = shape.total_parameters
    with pytest.raises(VarError, match="one positive number for each of 3 MoE layers"):
        shape_of_recorded("elsewhere", 3, 64, 8, [1, 2])


def test_packed_experts_are_refused():
    model = build_model("olmoe")
    experts = find_sites(model)[0].experts
    experts.down_proj = torch.nn.Parameter(experts.down_proj.data.to(torch.uint8), requires_grad=False)
    with pytest.raises(VarError, match="its experts are packed"):
        shape_of(model, find_sites(model), "mine")


def test_a_vision_tower_is_not_run_for_text():
    with _quiet():
        shape = shape_of_config(Qwen3VLMoeConfig(text_config=tiny_config("qwen3_vl_moe").to_dict()), "sees")
    assert shape.elsewhere.parameters > 1e6 and shape.rest.parameters == 32
    read = sum(one.weight_bytes for one in count(shape, "decode", 1, 1))
    assert read < shape.weight_bytes - shape.elsewhere.parameters * shape.dtype_bytes
