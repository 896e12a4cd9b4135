"""The readers of the four families that break the contract, against the decision worked out by hand."""

import pytest
import torch

from moe_families.build import build_family, tokens
from moe_families.configs import E
from moe_families.matrix import run
from var_core.errors import VarError
from var_core.routing.checks import check_attach
from var_core.routing.inputs import text_inputs
from var_core.routing.sites import find_sites


def captured(family, model=None):
    model = model or build_family(family)
    sites = find_sites(model)
    return sites, run(model, sites, text_inputs(model, tokens()))[1]


def test_llama4_gives_the_sigmoid_of_the_chosen_logits():
    sites, batch = captured("llama4")
    logits, experts = batch.logits.topk(2, dim=-1)
    assert torch.equal(batch.experts, experts)
    assert torch.equal(batch.weights, logits.sigmoid())
    assert sites[0].path == "layers.0.feed_forward.experts"


def test_jetmoe_routes_attention_and_mlp():
    sites, batch = captured("jetmoe")
    assert [site.path for site in sites[:2]] == ["layers.0.self_attention.experts", "layers.0.mlp"]
    logits, experts = batch.logits.topk(2, dim=-1)
    assert torch.equal(batch.experts, experts)
    torch.testing.assert_close(batch.weights, logits.softmax(-1))


def test_switch_gives_an_empty_slot_to_tokens_that_found_no_room():
    model = build_family("switch_transformers")
    for site in find_sites(model):
        site.router.expert_capacity = 3
    sites, batch = captured("switch_transformers", model)
    assert len(sites) == 8
    assert sites[0].path.startswith("encoder.") and sites[-1].path.startswith("decoder.")
    chosen = batch.logits.argmax(-1)
    dropped = batch.experts[..., 0] == E
    assert 0 < dropped.float().mean() < 1
    assert torch.equal(batch.experts[..., 0][~dropped], chosen[~dropped])
    assert (batch.weights[..., 0][dropped] == 0).all()
    probability = batch.logits.softmax(-1).amax(-1)
    torch.testing.assert_close(batch.weights[..., 0][~dropped], probability[~dropped])
    # Room is counted a sequence: the first three of 24 tokens that chose an expert have it, the others not.
    rank = torch.nn.functional.one_hot(chosen.view(8, 2, 24), E).cumsum(2).gather(3, chosen.view(8, 2, 24, 1))
    assert torch.equal(dropped.view(8, 2, 24), rank[..., 0] > 3)


def test_doge_scores_a_pair_of_keys_by_their_sum():
    _, batch = captured("doge")
    assert batch.logits.shape[-1] == 16
    chosen = batch.logits.gather(-1, batch.experts)
    torch.testing.assert_close(chosen, batch.logits.topk(2, dim=-1).values)
    torch.testing.assert_close(batch.weights, chosen.softmax(-1))


def test_zaya_writes_a_skip_as_the_last_outcome():
    _, batch = captured("zaya")
    skipped = batch.experts == E
    assert batch.logits.shape[-1] == E + 1
    assert skipped.any() and not skipped.all()
    assert torch.equal(batch.weights == 0, skipped)


def test_longcat_chooses_identity_outcomes_too():
    _, batch = captured("longcat_flash")
    assert batch.logits.shape[-1] == E + 4
    assert (batch.experts >= E).any() and (batch.experts < E + 4).all()


def test_layers_with_fewer_slots_are_padded():
    _, batch = captured("hunyuan_v1_moe")
    assert batch.experts.shape[-1] == 3
    assert [(layer == E).float().mean(0).tolist() for layer in batch.experts] == [
        [0, 0, 1],
        [0, 1, 1],
        [0, 0, 1],
        [0, 0, 0],
    ]
    assert torch.equal(batch.weights == 0, batch.experts == E)


@pytest.mark.parametrize(
    ("family", "tamper"),
    [
        ("llama4", lambda site: site.experts.register_forward_hook(lambda m, a, out: out * 1.001)),
        ("switch_transformers", lambda site: site.experts.register_forward_hook(lambda m, a, out: out * 1.001)),
        ("jetmoe", lambda site: site.experts.input_linear.register_forward_hook(lambda m, a, out: out * 1.001)),
        ("doge", lambda site: site.experts.register_forward_hook(lambda m, a, out: (out[0] * 1.001, out[1]))),
    ],
)
def test_tampered_experts_are_found(family, tamper):
    model = build_family(family)
    sites = find_sites(model)
    inputs = text_inputs(model, tokens(1, 8))
    check_attach(model, sites, inputs)
    tamper(sites[1])
    with pytest.raises(VarError, match=f"{sites[1].path} does not compute"):
        check_attach(model, sites, inputs)
