import pytest
import torch

from moe_families.build import build_family
from var_core.errors import VarError
from var_core.routing.batch import RoutedBatch
from var_core.routing.scoring import identify_layout
from var_core.routing.sites import find_sites

T, E = 200, 8
SCORES = {
    "softmax": lambda logits: logits.softmax(-1),
    "sigmoid": torch.sigmoid,
    "sqrtsoftplus": lambda logits: torch.nn.functional.softplus(logits).sqrt(),
}


@pytest.fixture(scope="module")
def site():
    return find_sites(build_family("mixtral"))[:1]


@pytest.fixture
def logits():
    return torch.randn(1, T, E, generator=torch.Generator().manual_seed(0))


def batch_of(logits, scores, k=2, by_token=True, by_expert=None):
    experts = (scores + 0.3 * torch.rand_like(scores)).topk(k, dim=-1).indices  # not always the top k of the logits
    weights = scores.gather(-1, experts)
    if by_token:
        weights = weights / weights.sum(-1, keepdim=True)
    if by_expert is not None:
        weights = weights * by_expert[experts]
    return RoutedBatch(logits, experts, weights)


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("scaled", ["by a constant", "by token", "by token and expert"])
def test_each_scoring_is_found_whatever_its_weights_are_scaled_by(site, logits, name, scaled):
    by_expert = torch.rand(E, generator=torch.Generator().manual_seed(1)) + 0.5
    batch = batch_of(
        logits, 2.5 * SCORES[name](logits), 3, scaled != "by a constant", by_expert if "expert" in scaled else None
    )
    identified = identify_layout(site, batch)
    assert [(r.experts, r.top_k, r.scoring) for r in identified.layout.layers] == [(E, 3, name)]
    assert identified.basis == ("fitted",)


def test_probabilities_are_told_from_logits(site, logits):
    probabilities = logits.softmax(-1)
    identified = identify_layout(site, batch_of(probabilities, probabilities))
    assert identified.layout.layers[0].scoring == "probabilities"
    assert identified.basis == ("fitted",)


def test_one_slot_whose_weight_is_always_one_says_nothing(site, logits):
    identified = identify_layout(site, batch_of(logits, logits.sigmoid(), k=1))
    assert identified.layout.layers[0].scoring == "softmax"
    assert identified.basis == ("assumed",)


@pytest.mark.parametrize("name", SCORES)
def test_one_slot_with_its_raw_weight_is_enough(site, logits, name):
    identified = identify_layout(site, batch_of(logits, SCORES[name](logits), k=1, by_token=False))
    assert identified.layout.layers[0].scoring == name
    assert identified.basis == ("fitted",)


def test_empty_slots_and_tokens_that_are_not_finite_do_not_matter(site, logits):
    batch = batch_of(logits, logits.softmax(-1), k=2)
    batch.experts[0, ::3, 1], batch.weights[0, ::3, 1] = E, 0
    batch.logits[0, 5], batch.weights[0, 5] = float("nan"), float("nan")
    batch.logits[0, 7, 2] = float("inf")
    identified = identify_layout(site, batch)
    assert identified.layout.layers[0].scoring == "softmax"
    assert identified.basis == ("fitted",)


def test_padding_of_other_layers_is_no_part_of_a_layer(logits):
    sites = find_sites(build_family("mixtral"))[:2]
    narrow = batch_of(logits[..., :4], logits[..., :4].sigmoid(), k=1, by_token=False)
    wide = batch_of(logits, logits.softmax(-1), k=2)
    pad = torch.nn.functional.pad
    batch = RoutedBatch(
        torch.cat([pad(narrow.logits, (0, 4), value=float("-inf")), wide.logits]),
        torch.cat([pad(narrow.experts, (0, 1), value=E), wide.experts]),
        torch.cat([pad(narrow.weights, (0, 1)), wide.weights]),
    )
    layers = identify_layout(sites, batch).layout.layers
    assert [(r.experts, r.top_k, r.scoring) for r in layers] == [(4, 1, "sigmoid"), (E, 2, "softmax")]


def test_logits_of_other_tokens_are_refused_by_name(site, logits):
    batch = batch_of(logits, logits.softmax(-1))
    shuffled = RoutedBatch(batch.logits.roll(1, dims=1), batch.experts, batch.weights)
    with pytest.raises(VarError, match=r"router layers\.0\.mlp\.gate: its logits do not explain its decisions"):
        identify_layout(site, shuffled)


def test_weights_of_no_known_scoring_need_the_top_k_to_agree(site, logits):
    experts = logits.topk(2, dim=-1).indices
    odd = torch.rand(1, T, 2, generator=torch.Generator().manual_seed(3))
    assert identify_layout(site, RoutedBatch(logits, experts, odd)).basis == ("assumed",)
    with pytest.raises(VarError, match="not supported"):
        identify_layout(site, RoutedBatch(logits, (experts + 1) % E, odd))


def test_logits_that_are_nowhere_finite_ask_for_a_wider_dtype(site, logits):
    batch = batch_of(logits, logits.softmax(-1))
    broken = RoutedBatch(torch.full_like(logits, float("nan")), batch.experts, batch.weights)
    with pytest.raises(VarError, match=r"no finite logits for any of 200 tokens; .*models\.<name>\.dtype"):
        identify_layout(site, broken)


@pytest.mark.parametrize("outside", [-1, E, E + 1, 1 << 40])
def test_experts_that_the_router_has_no_outcome_for_are_refused_by_name(site, logits, outside):
    """The index E with a weight is a shared expert among the routed ones; without, it is an empty slot."""
    batch = batch_of(logits, logits.softmax(-1))
    batch.experts[0, 7, 1] = outside
    message = (
        rf"MoE layer layers\.0\.mlp\.experts was given expert {outside}, but router .*gate has only outcomes 0 to 7"
    )
    with pytest.raises(VarError, match=message) as caught:
        identify_layout(site, batch)
    assert "\n" not in str(caught.value)


def test_experts_beyond_a_narrow_layer_s_own_are_refused_too(logits):
    sites = find_sites(build_family("mixtral"))[:2]
    scores = logits.softmax(-1)
    wide, narrow = batch_of(logits, scores), batch_of(logits[..., :4], scores[..., :4])
    parts = {
        "logits": torch.cat([wide.logits, torch.nn.functional.pad(narrow.logits, (0, 4), value=float("-inf"))]),
        "experts": torch.cat([wide.experts, narrow.experts]),
        "weights": torch.cat([wide.weights, narrow.weights]),
    }
    assert [router.experts for router in identify_layout(sites, RoutedBatch(**parts)).layout.layers] == [E, 4]
    parts["experts"][1, 3, 0] = 5
    with pytest.raises(VarError, match=r"MoE layer layers\.1\.mlp\.experts was given expert 5, .* outcomes 0 to 3"):
        identify_layout(sites, RoutedBatch(**parts))
