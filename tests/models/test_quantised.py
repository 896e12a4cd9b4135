import contextlib
import importlib.util
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from torch import nn
from transformers import CONFIG_MAPPING, MODEL_MAPPING, AutoConfig, AutoModel, PreTrainedModel

from moe_models import COMMON, VOCABULARY, build_model
from var_core.config.models import FolderModel
from var_core.errors import VarError
from var_core.models import quantised
from var_core.models.loading import LoadedModel, load_base_model, load_model
from var_core.routing.batch import RoutedBatch
from var_core.routing.recorder import Recorder
from var_core.routing.sites import find_sites

Save = Callable[[PreTrainedModel, Path], Path]
needs_bitsandbytes = pytest.mark.skipif(
    quantised.missing_package("int4") is not None, reason="bitsandbytes is not installed (pip install bitsandbytes)"
)
KINDS = ["int8", pytest.param("int4", marks=needs_bitsandbytes)]
# Of these, dbrx, afmoe, switch and jetmoe have an nn.Linear in the router, dbrx, switch, llama4 and jetmoe store or
# run their experts in ways of their own, and gpt_oss has biases and transposed weights.
SHAPE = {**COMMON, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2}
ODD_FAMILIES: dict[str, dict[str, Any]] = {
    "afmoe": {
        **SHAPE,
        **{"num_experts": 8, "num_experts_per_tok": 2, "num_dense_layers": 1, "num_shared_experts": 1},
        **{"moe_intermediate_size": 64, "head_dim": 16},
    },
    "dbrx": {
        **{"d_model": 64, "n_heads": 4, "n_layers": 2, "max_seq_len": 128, "vocab_size": VOCABULARY},
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8, "rope_theta": 1e4},
        "ffn_config": {"ffn_hidden_size": 64, "moe_num_experts": 8, "moe_top_k": 2, "hidden_size": 64},
    },
    "gpt_oss": {**SHAPE, "num_local_experts": 8, "num_experts_per_tok": 2, "head_dim": 16},
    "jetmoe": {
        **{"vocab_size": VOCABULARY, "hidden_size": 64, "num_hidden_layers": 2, "num_key_value_heads": 2},
        **{"kv_channels": 16, "intermediate_size": 64, "num_local_experts": 8, "num_experts_per_tok": 2},
    },
    "llama4_text": {
        **SHAPE,
        **{"num_local_experts": 8, "num_experts_per_tok": 2, "intermediate_size_mlp": 64, "head_dim": 16},
        **{"interleave_moe_layer_step": 1, "pad_token_id": 0},
    },
    "switch_transformers": {
        **{"vocab_size": VOCABULARY, "d_model": 64, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 4},
        **{"num_decoder_layers": 2, "num_experts": 8, "num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1},
    },
}


def tokens() -> torch.Tensor:
    return torch.randint(0, VOCABULARY, (4, 64), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def routed(loaded: LoadedModel) -> tuple[torch.Tensor, RoutedBatch]:
    """Last hidden states and decisions."""
    with Recorder(find_sites(loaded.model)) as recorder:
        hidden = loaded.model(tokens()).last_hidden_state
        return hidden, recorder.take()


def agreement(first: RoutedBatch, second: RoutedBatch) -> float:
    """Share of tokens, over all layers, for which the same experts were chosen."""
    return float((first.experts.sort(-1)[0] == second.experts.sort(-1)[0]).all(-1).float().mean())


def assert_only_experts_changed(whole: nn.Module, packed: nn.Module) -> None:
    whole_weights, packed_weights = dict(whole.named_parameters()), dict(packed.named_parameters())
    changed = {name for name in whole_weights if whole_weights[name].dtype != packed_weights[name].dtype}
    assert changed == {name for name in whole_weights if f"{name}_scale" in packed_weights}
    assert set(packed_weights) == set(whole_weights) | {f"{name}_scale" for name in changed}
    assert all(torch.equal(whole_weights[name], packed_weights[name]) for name in set(whole_weights) - changed)
    routers = {name for name in whole_weights if ".router." in name or ".gate." in name}
    assert routers and not routers & changed
    # Experts are the only weights with three dimensions in these families, and all of them are packed.
    assert changed and not any(whole_weights[name].ndim == 3 for name in set(whole_weights) - changed)


@pytest.mark.parametrize("kind", KINDS)
def test_experts_are_packed_and_routers_are_not(
    moe_model: PreTrainedModel, save_model: Save, tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    record = save_model(moe_model, tmp_path / "model")
    whole = load_model(record, head=False, dtype="bfloat16", device="cpu")
    config = FolderModel(source="folder", path="unused", dtype="bfloat16", quantisation=kind)
    with caplog.at_level(logging.INFO, "var_core"):
        packed = load_base_model(record, config, device="cpu")
    assert (whole.quantisation, packed.quantisation, packed.dtype) == ("none", kind, "bfloat16")
    assert_only_experts_changed(whole.model, packed.model)
    fused = [weight for weight in whole.model.parameters() if weight.ndim == 3]
    bytes_packed, bytes_unpacked = quantised.expert_bytes(packed.model)
    assert bytes_unpacked == sum(weight.nbytes for weight in fused)
    # Against bfloat16: half and the rows' scales (here for rows of 24 to 48), or a quarter and an eighth of it.
    assert bytes_packed / bytes_unpacked < {"int8": 0.55, "int4": 0.29}[kind]
    saved = whole.model.get_memory_footprint() - packed.model.get_memory_footprint()
    assert saved == bytes_unpacked - bytes_packed
    assert f"MiB as {kind}" in caplog.text


@pytest.mark.parametrize("kind", KINDS)
def test_routing_stays_close_to_that_of_the_whole_model(
    moe_model: PreTrainedModel, save_model: Save, tmp_path: Path, kind: str
) -> None:
    record = save_model(moe_model, tmp_path / "model")
    expected, decisions = routed(load_model(record, head=False, device="cpu"))
    hidden, found = routed(load_model(record, head=False, device="cpu", quantisation=kind))
    assert found.logits.isfinite().all() and found.weights.isfinite().all()
    # The first layer decides before any expert has run.
    assert torch.equal(found.experts[0], decisions.experts[0])
    assert agreement(found, decisions) > {"int8": 0.99, "int4": 0.95}[kind]
    error = float((hidden - expected).norm() / expected.norm())
    assert 0 < error < {"int8": 0.002, "int4": 0.02}[kind]  # 0 would be a model that was not quantised


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", sorted(ODD_FAMILIES))
def test_families_with_experts_or_routers_of_their_own_kind(
    save_model: Save, tmp_path: Path, name: str, kind: str
) -> None:
    torch.manual_seed(0)
    model = AutoModel.from_config(AutoConfig.for_model(name, **ODD_FAMILIES[name]))
    record = save_model(model, tmp_path / "model")
    whole = load_model(record, head=False, device="cpu").model
    packed = load_model(record, head=False, device="cpu", quantisation=kind).model
    assert_only_experts_changed(whole, packed)
    given = {"input_ids": tokens()}
    if whole.config.is_encoder_decoder:
        given["decoder_input_ids"] = tokens()
    with torch.no_grad():
        expected, hidden = (one(**given).last_hidden_state for one in (whole, packed))
    assert 0 < float((hidden - expected).norm() / expected.norm()) < {"int8": 0.02, "int4": 0.25}[kind]


def published_models() -> Iterator[tuple[str, nn.Module]]:
    """Model types of transformers with experts, at their default sizes and without weights."""
    for kind, config_class in CONFIG_MAPPING.items():
        code = importlib.util.find_spec(config_class.__module__.replace(".configuration_", ".modeling_"))
        if config_class not in MODEL_MAPPING or code is None or "Experts(" not in Path(str(code.origin)).read_text():
            continue
        # Some defaults are no whole model.
        with contextlib.suppress(AttributeError, KeyError, TypeError, ValueError), torch.device("meta"):
            model = AutoModel.from_config(config_class())
            if any(map(quantised.is_experts, model.modules())):
                yield kind, model


@pytest.mark.slow
def test_of_all_families_the_experts_are_packed_and_nothing_else() -> None:
    families = 0
    for kind, model in published_models():
        fused = {name for name, weight in model.named_parameters() if weight.ndim == 3}
        experts = {name for name in fused if "conv" not in name and "shared_experts" not in name}
        packed = quantised.pack_experts(model, quantised.CODECS["int8"])
        assert experts <= packed, kind
        pieces = {piece for name in packed for piece in name.split(".")}
        assert not pieces & {"router", "gate", "wg", "bias", "norm", "shared_experts", "self_attn"}, kind
        families += 1
    assert families > 70


@needs_bitsandbytes
def test_four_bits_are_those_of_bitsandbytes(save_model: Save, tmp_path: Path) -> None:
    from bitsandbytes.nn.parametrize import replace_parameter_4bit

    record = save_model(build_model("mixtral"), tmp_path / "model")
    ours = load_model(record, head=False, device="cpu", quantisation="int4").model
    theirs = load_model(record, head=False, device="cpu").model
    for layer in theirs.layers:
        for name in ("gate_up_proj", "down_proj"):
            replace_parameter_4bit(layer.mlp.experts, name)
    with torch.no_grad():
        assert torch.equal(ours(tokens()).last_hidden_state, theirs(tokens()).last_hidden_state)


@pytest.mark.parametrize("shape", [(3, 5, 16), (7, 16)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_eight_bits_come_back_within_half_a_step(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    weight[..., 0, :] = 0  # a row without a largest weight
    codec = quantised.RowInt8()
    packed, scale = codec.encode(weight)
    assert packed.dtype == torch.int8 and packed.shape == weight.shape
    assert scale.dtype == dtype and scale.shape == codec.scale_shape(weight.shape)
    back = codec.decode(packed, scale, weight.shape, dtype)
    largest = weight.float().abs().amax(-1, keepdim=True)
    allowed = largest / 254 * 1.02 + torch.finfo(dtype).eps * largest
    assert back.dtype == dtype and ((back.float() - weight.float()).abs() <= allowed).all()
    assert not back[..., 0, :].any()
    # What has been quantised stays as it is.
    assert torch.equal(codec.encode(back)[0], packed)


@pytest.mark.parametrize("kind", KINDS)
def test_packed_experts_can_be_offloaded(save_model: Save, tmp_path: Path, kind: str) -> None:
    """Accelerate moves the packed weights in and out under the names that they always had."""
    loaded = load_model(save_model(build_model("olmoe"), tmp_path / "model"), head=False, quantisation=kind)
    hidden, decisions = routed(loaded)
    cpu_offload(loaded.model, execution_device=torch.device("cpu"))
    assert all(weight.is_meta for weight in loaded.model.parameters())
    offloaded_hidden, offloaded = routed(loaded)
    assert torch.equal(hidden, offloaded_hidden) and torch.equal(decisions.experts, offloaded.experts)


def test_experts_that_offloading_does_not_reach_say_so(save_model: Save, tmp_path: Path) -> None:
    model = AutoModel.from_config(AutoConfig.for_model("dbrx", **ODD_FAMILIES["dbrx"]))
    loaded = load_model(save_model(model, tmp_path / "model"), head=False, device="cpu", quantisation="int8")
    cpu_offload(loaded.model, execution_device=torch.device("cpu"))
    with pytest.raises(VarError, match=r"^DbrxExperts: .* cannot be both quantised and offloaded"):
        loaded.model(tokens())


def test_a_failing_pass_leaves_the_weights_packed(save_model: Save, tmp_path: Path) -> None:
    experts = load_model(
        save_model(build_model("mixtral"), tmp_path / "model"), head=False, device="cpu", quantisation="int8"
    ).model.layers[0].mlp.experts  # fmt: skip
    with pytest.raises(RuntimeError):
        experts(torch.zeros(1, 3), torch.zeros(1, 2, dtype=torch.long), torch.ones(1, 2))
    assert experts.gate_up_proj.dtype == torch.int8


def test_models_without_such_experts_are_refused(save_model: Save, tmp_path: Path) -> None:
    config = AutoConfig.for_model("llama", **COMMON)
    record = save_model(AutoModel.from_config(config), tmp_path / "model")
    with pytest.raises(VarError, match="no expert weights that can be quantised; set quantisation to none"):
        load_model(record, head=False, device="cpu", quantisation="int8")


@needs_bitsandbytes
def test_weights_that_do_not_divide_into_blocks_are_refused(save_model: Save, tmp_path: Path) -> None:
    config = AutoConfig.for_model("mixtral", **{**COMMON, "intermediate_size": 45}, num_local_experts=4)
    record = save_model(AutoModel.from_config(config), tmp_path / "model")
    with pytest.raises(VarError, match=r"shape \(4, 32, 45\) do not divide into blocks of 64; set .* to int8"):
        load_model(record, head=False, device="cpu", quantisation="int4")
    load_model(record, head=False, device="cpu", quantisation="int8")


def test_what_has_to_be_installed_is_named(save_model: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = save_model(build_model("mixtral"), tmp_path / "model")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(VarError, match=r"int4 needs bitsandbytes, .*; run `pip install bitsandbytes`"):
        load_model(record, head=False, device="cpu", quantisation="int4")
