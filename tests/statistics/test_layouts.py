"""Models whose layers differ, routers that drop tokens or do not score by softmax, and sources that lack something."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from statistics_routed import quantities_of, random_decisions
from var_core.routing.batch import LayerRouter, RoutedBatch, RouterLayout
from var_core.statistics.accumulator import Accumulator, TokenBatch
from var_core.statistics.merge import merge_tables
from var_core.statistics.tables import QUANTITIES, SCHEMAS

CPU = torch.device("cpu")
SMALL, LARGE = LayerRouter(4, 1), LayerRouter(6, 3)


def update(layout, tokens, document, batch, vocabulary=20, **options):
    accumulator = Accumulator(layout, vocabulary, CPU, **options)
    accumulator.update(TokenBatch.from_sequences(tokens, document), batch, 0)
    return accumulator.tables("d")


def padded(narrow, wide):
    """One layer of 4 experts and k = 1 beside one of 6 experts and k = 3, as the recorder lays them out."""
    tokens = narrow.experts.shape[1]
    logits = torch.cat([torch.cat([narrow.logits, torch.full((1, tokens, 2), -torch.inf)], -1), wide.logits])
    experts = torch.cat([torch.cat([narrow.experts, torch.full((1, tokens, 2), 6)], -1), wide.experts])
    weights = torch.cat([torch.cat([narrow.weights, torch.zeros(1, tokens, 2)], -1), wide.weights])
    return RoutedBatch(logits, experts, weights)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), narrow_first=st.booleans())
def test_layers_of_other_shapes_count_as_if_each_were_alone(seed, narrow_first):
    tokens, document, narrow = random_decisions(seed, layers=1, experts=4, k=1)
    _, _, wide = random_decisions(seed + 1, layers=1, experts=6, k=3)
    batch, layers = padded(narrow, wide), (SMALL, LARGE)
    if not narrow_first:
        batch, layers = RoutedBatch(*(x.flip(0) for x in (batch.logits, batch.experts, batch.weights))), layers[::-1]
    together = update(RouterLayout(layers), tokens, document, batch)
    for number, layer in enumerate(layers):
        alone = update(RouterLayout((layer,)), tokens, document, narrow if layer == SMALL else wide)
        for kind in SCHEMAS:
            mine = together[kind].filter(pa.compute.equal(together[kind]["layer"], number))
            drop = ["layer", "next_chosen", "next_first", "next_first_shuffled"]
            keep = [name for name in mine.column_names if name not in drop]
            assert mine.select(keep).equals(alone[kind].select(keep)), kind
    rows = together["layer_stats"].to_pylist()
    joint = np.array(rows[0]["next_chosen"]).reshape(layers[0].experts, layers[1].experts)
    assert joint.sum() == 30 * 1 * 3
    assert joint.sum(axis=1).tolist() == [layers[1].top_k * c for c in rows[0]["chosen"]]
    assert rows[1]["next_chosen"] is None


def test_a_dropped_token_goes_to_nobody_and_is_counted_as_such():
    tokens, document, batch = random_decisions(4)
    experts, weights = batch.experts.clone(), batch.weights.clone()
    experts[1, 5], weights[1, 5] = 6, 0.0
    layout = RouterLayout.uniform(3, 6, 2)
    got = update(layout, tokens, document, RoutedBatch(batch.logits, experts, weights))
    logits = batch.logits.clone()
    logits[1, 5] = torch.nan
    left_out = update(layout, tokens, document, RoutedBatch(logits, batch.experts, batch.weights))
    assert got["layer_stats"]["dropped"].to_pylist() == [0, 1, 0]
    assert got["layer_stats"]["nonfinite"].to_pylist() == [0, 0, 0]
    assert got["layer_stats"].drop(["dropped", "nonfinite"]) == left_out["layer_stats"].drop(["dropped", "nonfinite"])
    assert got["token_stats"] == left_out["token_stats"] and got["expert_counts"] == left_out["expert_counts"]


SCORES = {
    "softmax": lambda x: x.exp(),
    "sigmoid": lambda x: 1 / (1 + (-x).exp()),
    "sqrtsoftplus": lambda x: (1 + x.exp()).log().sqrt(),
    "probabilities": lambda x: x,
}


@pytest.mark.parametrize("scoring", SCORES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_router_probabilities_are_the_routers_own_scores_made_to_sum_to_one(scoring, dtype):
    _, _, batch = random_decisions(7, dtype=dtype)
    logits = batch.logits.float().softmax(-1).to(dtype) if scoring == "probabilities" else batch.logits
    batch = RoutedBatch(logits, batch.experts, batch.weights)
    got = quantities_of(batch, RouterLayout.uniform(3, 6, 2, scoring))
    scores = SCORES[scoring](logits.double())
    p = scores / scores.sum(-1, keepdim=True)
    chosen = torch.zeros_like(p, dtype=torch.bool).scatter(-1, batch.experts, True)
    torch.testing.assert_close(got.router_entropy, -(p * p.log()).sum(-1), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(got.confidence, p.amax(-1), rtol=1e-5, atol=1e-6)
    margin = p.masked_fill(~chosen, 2).amin(-1) - p.masked_fill(chosen, -1).amax(-1)
    torch.testing.assert_close(got.margin, margin, rtol=1e-4, atol=1e-6)


def test_layers_may_score_differently():
    _, _, batch = random_decisions(8)
    mixed = RouterLayout(tuple(LayerRouter(6, 2, scoring) for scoring in ("softmax", "sigmoid", "sqrtsoftplus")))
    got = quantities_of(batch, mixed).stacked()
    for layer, shape in enumerate(mixed.layers):
        alone = quantities_of(batch, RouterLayout((shape,) * 3)).stacked()
        assert torch.equal(got[:, layer], alone[:, layer])
    assert not torch.equal(got, quantities_of(batch).stacked())


def test_a_probability_of_exactly_zero_has_a_finite_entropy():
    batch = RoutedBatch(torch.tensor([[[1.0, 0.0, 0.0]]]), torch.tensor([[[0]]]), torch.ones(1, 1, 1))
    got = quantities_of(batch, RouterLayout.uniform(1, 3, 1, "probabilities"))
    assert got.router_entropy.item() == pytest.approx(0, abs=1e-6) and got.finite.all()


def test_without_logits_what_needs_them_is_null_and_the_rest_as_with_them():
    tokens, document, batch = random_decisions(9)
    layout = RouterLayout.uniform(3, 6, 2)
    full = update(layout, tokens, document, batch)
    bare = update(layout, tokens, document, RoutedBatch(None, batch.experts, batch.weights), logits=False)
    moments = [f"{name}_{moment}" for name in QUANTITIES for moment in ("mean", "m2")]
    assert all(bare["token_stats"][name].null_count == len(bare["token_stats"]) for name in moments)
    assert bare["token_stats"].drop(moments) == full["token_stats"].drop(moments)
    assert bare["expert_counts"] == full["expert_counts"]
    assert bare["layer_stats"]["nonfinite"].null_count == len(bare["layer_stats"])
    assert bare["layer_stats"].drop("nonfinite") == full["layer_stats"].drop("nonfinite")


def test_without_weights_what_needs_them_is_null_and_the_rest_as_with_them():
    tokens, document, batch = random_decisions(10)
    layout = RouterLayout.uniform(3, 6, 2)
    full = update(layout, tokens, document, batch)
    bare = update(layout, tokens, document, RoutedBatch(batch.logits, batch.experts, None), weights=False)
    by_kind = {
        "token_stats": [],
        "expert_counts": ["first", "weight_sum"],
        "layer_stats": ["first", "weight_sum", "first_repeats", "next_first", "next_first_shuffled"],
    }
    for kind, names in by_kind.items():
        assert all(bare[kind][name].null_count == len(bare[kind]) for name in names)
        assert bare[kind].drop(names) == full[kind].drop(names)
        twice = merge_tables(kind, [bare[kind], bare[kind]])
        assert all(twice[name].null_count == len(twice) for name in names)


def test_without_token_ids_the_layers_are_counted_and_no_token():
    tokens, document, batch = random_decisions(11)
    layout = RouterLayout.uniform(3, 6, 2)
    full = update(layout, tokens, document, batch)
    accumulator = Accumulator(layout, 0, CPU)
    continues = TokenBatch.from_sequences(tokens, document).continues
    accumulator.update(TokenBatch(None, continues, len(tokens)), batch, 0)
    bare = accumulator.tables("d")
    assert len(bare["token_stats"]) == len(bare["expert_counts"]) == 0
    weights = [np.array(x["layer_stats"]["weight_sum"].to_pylist()) for x in (full, bare)]
    np.testing.assert_allclose(weights[0], weights[1], rtol=1e-12)
    assert bare["layer_stats"].drop(["weight_sum"]) == full["layer_stats"].drop(["weight_sum"])
