"""The loops that count on a CPU and the tensor operations that count on a GPU are two ways to the same numbers."""

import time

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from statistics_routed import assert_equal_within_rounding, random_decisions
from var_core.errors import VarError
from var_core.routing.batch import LayerRouter, RoutedBatch, RouterLayout, Scoring
from var_core.statistics import by_loops
from var_core.statistics.accumulator import Accumulator, TokenBatch
from var_core.statistics.tables import SCHEMAS

CPU = torch.device("cpu")


def any_decisions(seed, scorings, drop, poison, unsorted):
    """Decisions of layers with 4 experts, k = 1 and with 6 experts, k = 3 in turn, some dropped, some not finite."""
    generator = torch.Generator().manual_seed(seed)
    tokens, document, batch = random_decisions(seed, layers=len(scorings), k=3, sequences=4, length=25)
    logits, experts, weights = batch.logits.clone(), batch.experts.clone(), batch.weights.clone()
    shapes = []
    for layer, scoring in enumerate(scorings):
        narrow = layer % 2 == 1
        shapes.append(LayerRouter(4 if narrow else 6, 1 if narrow else 3, scoring))
        if scoring == "probabilities":
            logits[layer] = logits[layer].softmax(-1)
        if narrow:
            logits[layer, :, 4:] = -torch.inf
            experts[layer] = torch.cat([logits[layer].argmax(-1, keepdim=True), torch.full((100, 2), 6)], -1)
            weights[layer, :, 1:] = 0.0
        elif unsorted:
            order = torch.rand(100, 3, generator=generator).argsort(-1)
            experts[layer], weights[layer] = experts[layer].gather(-1, order), weights[layer].gather(-1, order)
    weights = (weights * 4).round() / 4  # so that there are ties
    dropped = torch.rand(experts.shape[:2], generator=generator) < drop
    experts[dropped], weights[dropped] = 6, 0.0
    bad = torch.rand(experts.shape[:2], generator=generator) < poison
    values = torch.tensor([torch.nan, torch.inf, -torch.inf])[torch.randint(3, bad.shape, generator=generator)]
    logits[..., 1] = torch.where(bad, values, logits[..., 1])
    if poison:
        weights[0, 3, 0], weights[0, 4, -1] = torch.nan, torch.inf
    for layer, scoring in enumerate(scorings):
        if scoring == "softmax":  # as masked experts are written in some models
            logits[layer, ::7, 0] = torch.finfo(torch.float32).min
            logits[layer, ::11, 2] = torch.finfo(torch.bfloat16).min
    return tokens, document, RouterLayout(tuple(shapes)), RoutedBatch(logits, experts, weights)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    scorings=st.lists(st.sampled_from(Scoring.__args__), min_size=1, max_size=4),
    drop=st.sampled_from([0.0, 0.2]),
    poison=st.sampled_from([0.0, 0.1]),
    unsorted=st.booleans(),
    recorded=st.sampled_from(["all", "logits", "weights"]),
)
def test_loops_and_tensors_count_the_same(seed, scorings, drop, poison, unsorted, recorded):
    given_ = {}
    if recorded == "logits":
        given_ = {"weights": False}
    if recorded == "weights":
        given_ = {"logits": False}
    by_loops, by_tensors = (Accumulator(any_decisions(seed, scorings, 0, 0, False)[2], 20, CPU, loops=loops, **given_)
                            for loops in (True, False))  # fmt: skip
    for index in range(3):
        tokens, document, _, batch = any_decisions(seed + index, scorings, drop, poison, unsorted)
        if recorded == "logits":
            batch = RoutedBatch(batch.logits, batch.experts, None)
        if recorded == "weights":
            batch = RoutedBatch(None, batch.experts, batch.weights)
        of_loops, of_tensors = (
            each.update(TokenBatch.from_sequences(tokens, document), batch, index) for each in (by_loops, by_tensors)
        )
        if recorded == "weights":
            assert of_loops is None and of_tensors is None
        else:
            assert torch.equal(of_loops.finite, of_tensors.finite)
            kept = of_loops.finite & (batch.experts[..., 0] < 6)
            for one, other in zip(of_loops.stacked(), of_tensors.stacked(), strict=True):
                torch.testing.assert_close(one[kept], other[kept], rtol=2e-6, atol=2e-6)
    tables = [each.tables("d") for each in (by_loops, by_tensors)]
    for kind in SCHEMAS:
        one, other = (_without_moments(each[kind]) for each in tables)
        assert_equal_within_rounding(kind, one, other, schema=one.schema)
    if recorded != "weights":
        for name in tables[0]["token_stats"].column_names:
            if name.endswith(("_mean", "_m2")):
                one, other = (each["token_stats"][name].to_numpy() for each in tables)
                np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def _without_moments(table: pa.Table) -> pa.Table:
    """The two ways compute entropies by other formulas in float32, so only what is counted is alike to the last bit."""
    return table.drop([name for name in table.column_names if name.endswith(("_mean", "_m2"))])


def test_loops_keep_digits_that_a_sum_of_squares_loses():
    layout = RouterLayout.uniform(1, 3, 1)
    logits = torch.tensor([[[0.0, 0.0, 1e-3], [0.0, 0.0, 1.001e-3]]])
    accumulator = Accumulator(layout, 1, CPU, loops=True)
    batch = RoutedBatch(logits, torch.tensor([[[2], [2]]]), torch.ones(1, 2, 1))
    for index in range(1000):
        accumulator.update(
            TokenBatch(torch.zeros(2, dtype=torch.long), torch.zeros(2, dtype=torch.bool), 1), batch, index
        )
    row = accumulator.tables("d")["token_stats"].to_pylist()[0]
    confidence = torch.softmax(logits, -1).amax(-1).double().flatten()
    exact = float(1000 * (confidence - confidence.mean()).square().sum())
    assert row["confidence_m2"] == pytest.approx(exact, rel=1e-9)


def test_entropy_of_the_loops_is_right_to_the_precision_of_the_logits():
    """Peaked and flat routers of 128 experts, against float64."""
    logits = (
        torch.randn(1, 1000, 128, generator=torch.Generator().manual_seed(1)) * torch.linspace(0, 40, 1000)[:, None]
    )
    experts = logits.topk(8).indices
    accumulator = Accumulator(RouterLayout.uniform(1, 128, 8), 1, CPU, weights=False)
    tokens = TokenBatch(torch.zeros(1000, dtype=torch.long), torch.zeros(1000, dtype=torch.bool), 10)
    got = accumulator.update(tokens, RoutedBatch(logits, experts, None), 0)
    log_p = torch.log_softmax(logits.double(), -1)
    torch.testing.assert_close(got.router_entropy, -(log_p.exp() * log_p).sum(-1), rtol=1e-6, atol=3e-7)
    assert (got.router_entropy >= 0).all()


def test_masked_experts_have_no_probability():
    logits = torch.tensor([[[1.0, 2.0, torch.finfo(torch.float32).min, torch.finfo(torch.bfloat16).min]]])
    accumulator = Accumulator(RouterLayout.uniform(1, 4, 1), 1, CPU)
    tokens = TokenBatch(torch.zeros(1, dtype=torch.long), torch.zeros(1, dtype=torch.bool), 1)
    got = accumulator.update(tokens, RoutedBatch(logits, torch.tensor([[[1]]]), torch.ones(1, 1, 1)), 0)
    p = torch.softmax(logits[0, 0, :2].double(), -1)
    assert got.finite.all() and float(got.router_entropy) == pytest.approx(float(-(p * p.log()).sum()), rel=1e-6)


@pytest.mark.parametrize("expert", [-1, 7])
def test_an_expert_that_is_not_there_is_refused_before_anything_is_written(expert):
    tokens, document, batch = random_decisions(1)
    batch.experts[1, 4, 0] = expert
    accumulator = Accumulator(RouterLayout.uniform(3, 6, 2), 20, CPU)
    with pytest.raises(VarError, match="MoE layer 1 chose an expert outside 0 to 5"):
        accumulator.update(TokenBatch.from_sequences(tokens, document), batch, 0)
    assert not any(tensor.any() for tensor in accumulator.state().values())


def test_no_thread_counts_on_after_another_has_failed():
    counted = []

    def work(begin, end):
        if begin == 0:
            raise MemoryError
        time.sleep(0.2)
        counted.append(begin)

    with pytest.raises(MemoryError):
        by_loops._for_all_layers(work, 4, 2)
    assert counted == [2], "the other thread was waited for"


def test_the_number_of_threads_changes_no_bit(monkeypatch):
    monkeypatch.setattr(by_loops, "_WORTH_THREADS", 0)
    states = []
    for threads in (1, 2, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        accumulator = Accumulator(RouterLayout.uniform(5, 6, 2), 20, CPU)
        for index in range(3):
            tokens, document, batch = random_decisions(index, layers=5)
            accumulator.update(TokenBatch.from_sequences(tokens, document), batch, index)
        states.append(accumulator.state())
    for other in states[1:]:
        assert all(torch.equal(tensor, other[name]) for name, tensor in states[0].items())
