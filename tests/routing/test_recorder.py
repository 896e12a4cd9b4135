"""What is recorded is compared with a forward pass taken apart by hand, never with a mock."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import MixtralConfig, MixtralModel

from moe_families.build import build_family
from moe_families.build import tokens as family_tokens
from moe_models import COMMON, VOCABULARY, build_model
from var_core.errors import VarError
from var_core.routing.inputs import text_inputs
from var_core.routing.recorder import Recorder
from var_core.routing.scoring import identify_layout
from var_core.routing.sites import find_sites


def run(model, tokens):
    sites = find_sites(model)
    with torch.inference_mode(), Recorder(sites) as recorder:
        output = model(input_ids=tokens, use_cache=False)
        return sites, recorder.take(), output


@pytest.fixture
def tokens():
    return torch.randint(VOCABULARY, (2, 20), generator=torch.Generator().manual_seed(1))


def test_recorded_decisions_recombine_to_what_the_block_computed(moe_model, tokens):
    """Run every chosen expert by itself and add up with the recorded weights: the block's routed output."""
    inputs, outputs = {}, {}
    sites = find_sites(moe_model)
    handles = []
    for site in sites:

        def keep(module, arguments, output, layer=site.layer):
            inputs[layer], outputs[layer] = arguments[0], output

        handles.append(site.experts.register_forward_hook(keep))
    _, batch, _ = run(moe_model, tokens)
    for handle in handles:
        handle.remove()
    for site in sites:
        hidden = inputs[site.layer].flatten(0, -2)
        total = torch.zeros_like(hidden)
        for slot in range(batch.experts.shape[-1]):
            chosen = batch.experts[site.layer, :, slot]
            gate, up = torch.einsum("td,tid->ti", hidden, site.experts.gate_up_proj[chosen]).chunk(2, dim=-1)
            one = torch.einsum("ti,tdi->td", torch.nn.functional.silu(gate) * up, site.experts.down_proj[chosen])
            total += batch.weights[site.layer, :, slot, None] * one
        torch.testing.assert_close(total, outputs[site.layer].flatten(0, -2), rtol=1e-4, atol=1e-6)


def test_recorded_logits_are_the_gate_applied_to_its_input(moe_model, tokens):
    """Earlier code applied the gate to the layer's output; the gate reads the MoE block's input."""
    inputs = {}
    sites = find_sites(moe_model)
    handles = [
        site.router.register_forward_pre_hook(lambda module, args, layer=site.layer: inputs.__setitem__(layer, args[0]))
        for site in sites
    ]
    _, batch, _ = run(moe_model, tokens)
    for handle in handles:
        handle.remove()
    for site in sites:
        expected = inputs[site.layer].flatten(0, -2) @ site.router.weight.T
        torch.testing.assert_close(batch.logits[site.layer], expected)


def test_recording_changes_nothing(moe_model, tokens):
    with torch.inference_mode():
        plain = moe_model(input_ids=tokens, use_cache=False).logits
    _, _, recorded = run(moe_model, tokens)
    assert torch.equal(plain, recorded.logits)


def test_hooks_are_gone_afterwards(moe_model, tokens):
    sites, _, _ = run(moe_model, tokens)
    assert not any(site.router._forward_hooks or site.experts._forward_pre_hooks for site in sites)


def test_a_silent_site_is_an_error(tokens):
    model = build_model("mixtral")
    sites = find_sites(model)
    model.model.layers = model.model.layers[:2]
    with torch.inference_mode(), Recorder(sites) as recorder:
        model.model(input_ids=tokens, use_cache=False)
        with pytest.raises(VarError, match=r"1 of 3 MoE layers made no decision, first model\.layers\.2\.mlp\.experts"):
            recorder.take()


def test_taking_twice_is_an_error_not_a_second_count(tokens):
    model = build_model("mixtral")
    with torch.inference_mode(), Recorder(find_sites(model)) as recorder:
        model.model(input_ids=tokens, use_cache=False)
        recorder.take()
        with pytest.raises(VarError, match=r"none of the 3 MoE layers has made a decision .*dequantize=True"):
            recorder.take()


def test_two_passes_without_taking_are_an_error(tokens):
    model = build_model("mixtral")
    with torch.inference_mode(), Recorder(find_sites(model)):
        model.model(input_ids=tokens, use_cache=False)
        with pytest.raises(VarError, match=r"MoE layer model\.layers\.0\.mlp\.experts decided twice"):
            model.model(input_ids=tokens, use_cache=False)


def test_gradient_checkpointing_is_an_error_not_a_second_count(tokens):
    model = build_model("mixtral").train().requires_grad_(True)
    model.activation_checkpointing_enable()
    with Recorder(find_sites(model)):
        loss = model.model(input_ids=tokens, use_cache=False).last_hidden_state.sum()
        with pytest.raises(VarError, match="switch gradient checkpointing off"):
            loss.backward()


def test_layers_with_fewer_experts_are_padded(tokens):
    """A real block with 4 experts and one choice between blocks with 8 and 2."""
    model = build_model("mixtral")
    small = MixtralConfig(**COMMON, num_local_experts=4, num_experts_per_tok=1)
    model.model.layers[1].mlp = MixtralModel(small).layers[1].mlp.requires_grad_(False)
    sites, batch, _ = run(model, tokens)
    assert batch.logits[1, :, 4:].isneginf().all() and batch.logits.isfinite()[[0, 2]].all()
    assert batch.logits[1, :, :4].isfinite().all()
    assert (batch.experts[1, :, 1] == 8).all() and (batch.experts[1, :, 0] < 4).all()
    assert (batch.weights[1, :, 1] == 0).all()
    layers = identify_layout(sites, batch).layout.layers
    assert [(layer.experts, layer.top_k) for layer in layers] == [(8, 2), (4, 1), (8, 2)]


class NoWaiting(TorchDispatchMode):
    """Refuses what makes the host wait for a device: reading a number, or a result whose size depends on values."""

    WAITS = ("_local_scalar_dense", "nonzero", "unique", "masked_select", "is_nonzero", "equal")

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        name = function.__name__.split(".")[0]
        assert name.strip("_") not in {wait.strip("_") for wait in self.WAITS}, f"{name} waits for the device"
        return function(*arguments, **(keywords or {}))


@pytest.mark.parametrize("family", ["mixtral", "hunyuan_v1_moe", "zaya", "switch_transformers", "llama4", "jetmoe"])
def test_recording_waits_for_no_device(family):
    model = build_family(family)
    with torch.inference_mode(), Recorder(find_sites(model)) as recorder:
        model(**text_inputs(model, family_tokens()))
        with NoWaiting():
            assert recorder.take().experts.shape[1] == 48


def test_waiting_would_be_noticed():
    with NoWaiting(), pytest.raises(AssertionError, match="waits for the device"):
        torch.ones(3).sum().item()


def test_layers_that_see_different_tokens_are_refused():
    model = build_family("switch_transformers")
    with torch.inference_mode(), Recorder(find_sites(model)) as recorder:
        model(input_ids=family_tokens(), decoder_input_ids=family_tokens()[:, :5])
        with pytest.raises(VarError, match=r"decided about 10 tokens, encoder\S+ about 48; .*exclude_sites"):
            recorder.take()


def test_a_block_that_a_kernel_replaced_says_how_to_load_the_model(tokens):
    model = build_model("mixtral")
    with torch.inference_mode(), Recorder(find_sites(model)) as recorder:
        for layer in model.model.layers:
            layer.mlp.forward = torch.nn.Identity().forward
        model.model(input_ids=tokens, use_cache=False)
        expected = r"none of the 3 .*bypassed .*Mxfp4Config\(dequantize=True\).*use_kernels.*before torch\.compile"
        with pytest.raises(VarError, match=expected):
            recorder.take()
