import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from transformers import AutoModelForCausalLM, GptOssConfig, Mxfp4Config, PreTrainedModel

from moe_models import COMMON, VOCABULARY, build_model
from var_core.errors import VarError
from var_core.models.folder import ModelRecord, folder_digest, write_record
from var_core.models.loading import load_model
from var_core.models.prequantised import METHODS, prequantised_options, quantised_as
from var_core.routing.recorder import Recorder
from var_core.routing.sites import find_sites

Save = Callable[[PreTrainedModel, Path], Path]
FP4_VALUES = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6])
"""The 16 values of E2M1, by code (OCP Microscaling Formats 1.0, table 5)."""


def quantised_folder(folder: Path, quantisation: dict[str, Any], weights: dict[str, torch.Tensor]) -> Path:
    """Make a saved model into one that says that it is quantised; returns its record."""
    safetensors.torch.save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = folder / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "quantization_config": quantisation}))
    record = folder.parent / "model.json"
    write_record(record, ModelRecord("mine", "folder", folder, None, folder_digest(folder)), "code")
    return record


def mxfp4(weight: torch.Tensor, generator: torch.Generator) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Random MXFP4 blocks and scales for a stored weight [E, in, out], and what they mean."""
    experts, rows, columns = weight.transpose(1, 2).shape
    blocks = torch.randint(0, 256, (experts, rows, columns // 32, 16), generator=generator, dtype=torch.uint8)
    scales = torch.randint(119, 124, (experts, rows, columns // 32), generator=generator, dtype=torch.uint8)
    codes = torch.stack([blocks & 15, blocks >> 4], -1).flatten(-2).long()  # the low half of a byte comes first
    meaning = FP4_VALUES[codes] * 2.0 ** (scales.float() - 127)[..., None]
    return {"blocks": blocks, "scales": scales}, meaning.view(experts, rows, columns).transpose(1, 2)


@pytest.fixture
def gpt_oss(save_model: Save, tmp_path: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    """A tiny gpt_oss with experts in MXFP4, as published: its record, and what the experts' weights mean."""
    torch.manual_seed(0)
    config = GptOssConfig(
        **{**COMMON, "hidden_size": 64, "intermediate_size": 32, "num_hidden_layers": 2},
        **{"head_dim": 16, "num_local_experts": 4, "num_experts_per_tok": 2},
    )
    save_model(AutoModelForCausalLM.from_config(config).to(torch.bfloat16), tmp_path / "model")
    generator = torch.Generator().manual_seed(0)
    stored, meant = {}, {}
    for name, weight in safetensors.torch.load_file(tmp_path / "model" / "model.safetensors").items():
        if weight.ndim == 3:
            packed, meant[name] = mxfp4(weight, generator)
            stored |= {f"{name}_{part}": values for part, values in packed.items()}
        else:
            stored[name] = weight
    quantisation = {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}
    return quantised_folder(tmp_path / "model", quantisation, stored), meant


@pytest.mark.parametrize("head", [True, False])
def test_mxfp4_is_dequantised_and_shows_its_decisions(
    gpt_oss: tuple[Path, dict[str, torch.Tensor]], caplog: pytest.LogCaptureFixture, head: bool
) -> None:
    record, meant = gpt_oss
    with caplog.at_level(logging.WARNING, "var_core"):
        loaded = load_model(record, head=head, device="cpu")
    assert (loaded.quantisation, loaded.dtype) == ("mxfp4 dequantised", "bfloat16")
    weights = dict(loaded.model.named_parameters())
    assert len(meant) == 4
    for name, weight in meant.items():
        found = weights[name if head else name.removeprefix("model.")]
        assert torch.equal(found.float(), weight)  # four bits and a power of two fit into bfloat16
    with torch.no_grad(), Recorder(find_sites(loaded.model)) as recorder:
        loaded.model(torch.randint(0, VOCABULARY, (2, 8)))
        assert recorder.take().experts.shape == (2, 16, 2)
    # The warning names the memory that the model with its head takes.
    size = (sum(weight.nbytes for weight in weights.values()) + (0 if head else 2 * VOCABULARY * 64)) / 1e9
    assert "mxfp4 weights are dequantised, since its kernels run router and experts in one piece" in caplog.text
    assert f"about {size:.3g} GB of memory" in caplog.text


def test_without_that_it_would_be_left_to_the_machine(gpt_oss: tuple[Path, dict[str, torch.Tensor]]) -> None:
    options = prequantised_options("mine", gpt_oss[0].parent / "model", "none", "auto")
    assert isinstance(options["quantization_config"], Mxfp4Config) and options["quantization_config"].dequantize


def test_fp8_is_loaded_and_shows_its_decisions(save_model: Save, tmp_path: Path) -> None:
    save_model(build_model("qwen3_moe"), tmp_path / "model")
    stored, meant = {}, {}
    for name, weight in safetensors.torch.load_file(tmp_path / "model" / "model.safetensors").items():
        stored[name] = weight
        if name.endswith("proj.weight"):
            scale = weight.abs().max() / 448  # the largest number of E4M3
            stored[name] = (weight / scale).to(torch.float8_e4m3fn)
            stored[f"{name}_scale_inv"] = scale.view(1, 1)
            meant[name] = stored[name].float() * scale
    quantisation = {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic"}
    loaded = load_model(
        quantised_folder(tmp_path / "model", quantisation, stored), head=False, dtype="float32", device="cpu"
    )
    assert loaded.quantisation in ("fp8", "fp8 dequantised")  # transformers decides by the machine
    with torch.no_grad(), Recorder(find_sites(loaded.model)) as recorder:
        assert loaded.model(torch.randint(0, VOCABULARY, (2, 8))).last_hidden_state.isfinite().all()
        assert recorder.take().experts.shape == (3, 16, 4)
    if loaded.quantisation == "fp8 dequantised":
        name = "layers.1.mlp.experts.5.down_proj.weight"
        weight = loaded.model.layers[1].mlp.experts.down_proj[5]
        assert torch.equal(weight, meant[f"model.{name}"])


def told(folder: Path, config: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("method", "reason"),
    [
        ("bitsandbytes", "routers"),
        ("torchao", "routers"),
        ("gptq", "quantised linear layers"),
        ("awq", "quantised linear layers"),
        ("compressed-tensors", "quantised linear layers"),
        ("brand_new", "has not been tried"),
    ],
)
def test_methods_that_hide_decisions_are_refused_with_the_reason(tmp_path: Path, method: str, reason: str) -> None:
    folder = told(tmp_path, {"model_type": "mixtral", "quantization_config": {"quant_method": method}})
    with pytest.raises(VarError, match=rf"models\.mine: .* quantised by {method}, .*{reason}.*; use the unquantised"):
        prequantised_options("mine", folder, "none", "auto")


@pytest.mark.parametrize("method", [method for method, what in METHODS.items() if what.action != "refuse"])
def test_a_quantised_checkpoint_is_not_quantised_again(tmp_path: Path, method: str) -> None:
    folder = told(tmp_path, {"quantization_config": {"quant_method": method}})
    with pytest.raises(VarError, match=rf"models\.mine\.quantisation: .* already \({method}\); set it to none"):
        prequantised_options("mine", folder, "int8", "auto")


@pytest.mark.parametrize(
    ("config", "method"),
    [
        ({}, None),
        ({"quantization_config": None}, None),
        ({"text_config": {"quantization_config": {"quant_method": "fp8"}}}, "fp8"),
        ({"quantization_config": {"load_in_4bit": True}}, "bitsandbytes"),
        ({"quantization_config": {}}, "None"),
    ],
)
def test_where_a_checkpoint_says_how_it_is_quantised(
    tmp_path: Path, config: dict[str, Any], method: str | None
) -> None:
    assert quantised_as(told(tmp_path, config)) == method
