import pytest
import torch

from moe_families.build import build_family, tokens
from moe_families.matrix import relative_change, run
from var_core.errors import VarError
from var_core.routing.forcing import Forcer
from var_core.routing.inputs import text_inputs
from var_core.routing.sites import find_sites


def prepared(family):
    model = build_family(family)
    sites = find_sites(model)
    inputs = text_inputs(model, tokens())
    output, batch = run(model, sites, inputs)
    return model, sites, inputs, output, batch


def replay(sites, batch):
    return {s.layer: (batch.experts[s.layer], batch.weights[s.layer]) for s in sites}


@pytest.mark.parametrize("family", ["mixtral", "zaya", "longcat_flash", "deepseek_v4", "dbrx"])
def test_forcing_what_was_recorded_changes_nothing(family):
    """Skips and identity outcomes too, which zaya and longcat_flash have in the recorded batch."""
    model, sites, inputs, output, batch = prepared(family)
    forced, again = run(model, sites, inputs, Forcer(sites, replay(sites, batch)))
    assert torch.equal(forced, output)
    assert torch.equal(again.experts, batch.experts)
    assert torch.equal(again.weights, batch.weights)


def test_what_is_forced_is_recorded_and_used():
    model, sites, inputs, output, batch = prepared("mixtral")
    other = {1: ((batch.experts[1] + 1) % 8, batch.weights[1])}
    forced, again = run(model, sites, inputs, Forcer(sites, other))
    assert torch.equal(again.experts[1], other[1][0])
    assert torch.equal(again.experts[0], batch.experts[0])
    assert relative_change(forced, output) > 1e-3


def test_index_e_drops_an_expert_like_weight_zero():
    model, sites, inputs, output, batch = prepared("mixtral")
    dropped, weightless = batch.experts[0].clone(), batch.weights[0].clone()
    dropped[:, 1], weightless[:, 1] = 8, 0
    by_index, _ = run(model, sites, inputs, Forcer(sites, {0: (dropped, batch.weights[0])}))
    by_weight, _ = run(model, sites, inputs, Forcer(sites, {0: (batch.experts[0], weightless)}))
    assert relative_change(by_index, by_weight) < 1e-5
    assert relative_change(by_index, output) > 1e-3


def test_more_slots_than_the_router_has():
    model, sites, inputs, output, batch = prepared("mixtral")
    wider = (
        torch.cat([batch.experts[0], batch.experts[0][:, :1]], dim=1),
        torch.cat([batch.weights[0] * torch.tensor([0.5, 1.0]), batch.weights[0][:, :1] * 0.5], dim=1),
    )
    forced, _ = run(model, sites, inputs, Forcer(sites, {0: wider}))
    assert relative_change(forced, output) < 1e-5


def test_a_function_sees_the_routers_choice():
    model, sites, inputs, _, batch = prepared("qwen3_moe")
    seen = []

    def keep_first(experts, weights):
        seen.append(experts)
        return experts[:, :1], weights.sum(1, keepdim=True)

    _, again = run(model, sites[:1], inputs, Forcer(sites, {0: keep_first}))
    assert torch.equal(seen[0], batch.experts[0])
    assert again.experts.shape[-1] == 1


def test_the_hooks_are_gone_afterwards():
    model, sites, inputs, output, batch = prepared("mixtral")
    run(model, sites, inputs, Forcer(sites, {0: ((batch.experts[0] + 1) % 8, batch.weights[0])}))
    assert torch.equal(run(model, sites, inputs)[0], output)


@pytest.mark.parametrize(
    ("family", "reason"),
    [
        ("doge", "scores, chooses and runs the experts in one piece"),
        ("jetmoe", "sorted by expert"),
        ("llama4", "all its experts run on every token"),
        ("switch_transformers", "one-hot rows under a capacity limit"),
    ],
)
def test_a_family_that_cannot_be_forced_says_why(family, reason):
    sites = find_sites(build_family(family))
    with pytest.raises(VarError, match=rf"MoE layer \S+: a decision cannot be forced: .*{reason}"):
        Forcer(sites, {0: lambda experts, weights: (experts, weights)})


@pytest.mark.parametrize(
    ("experts", "weights", "message"),
    [
        (torch.full((48, 2), 9), torch.ones(48, 2), r"go from 9 to 9, the layer has 0 to 7 \(and 8 for none\)"),
        (torch.full((48, 2), -1), torch.ones(48, 2), "go from -1 to -1"),
        (torch.zeros(48, 2, dtype=torch.int64), torch.ones(48, 1), r"\(48, 2\) and weights \(48, 1\)"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(experts, weights, message):
    with pytest.raises(VarError, match=message):
        Forcer(find_sites(build_family("mixtral")), {0: (experts, weights)})


def test_decisions_for_other_tokens_are_refused():
    model, sites, inputs, _, batch = prepared("mixtral")
    short = {0: (batch.experts[0, :5], batch.weights[0, :5])}
    with pytest.raises(VarError, match="5 forced decisions for 48 tokens"):
        run(model, sites, inputs, Forcer(sites, short))


def test_a_layer_that_is_not_there_is_refused():
    with pytest.raises(VarError, match=r"no MoE layer 7 .*\[0, 1, 2, 3\]"):
        Forcer(find_sites(build_family("mixtral")), {7: lambda experts, weights: (experts, weights)})
