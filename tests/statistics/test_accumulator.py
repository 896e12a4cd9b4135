import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from statistics_routed import by_the_book, random_decisions
from var_core.errors import VarError
from var_core.routing.batch import RoutedBatch, RouterLayout
from var_core.statistics.accumulator import Accumulator, TokenBatch

CPU = torch.device("cpu")


def accumulate(batches, layers=3, vocabulary=20, experts=6):
    accumulator = Accumulator(RouterLayout.uniform(layers, experts, 2), vocabulary, CPU)
    for index, (tokens, document, batch) in enumerate(batches):
        accumulator.update(TokenBatch.from_sequences(tokens, document), batch, index)
    return accumulator


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), k=st.integers(1, 6), layers=st.integers(1, 4))
def test_every_statistic_is_what_the_definition_says(seed, k, layers):
    decisions = random_decisions(seed, k=k, layers=layers)
    values, chosen, first, weight_sum, coactivation, next_chosen, next_first, repeats = by_the_book(*decisions)
    tables = accumulate([decisions], layers=layers).tables("d")

    rows = tables["token_stats"].to_pylist()
    assert {(r["layer"], r["token_id"]) for r in rows} == set(values)
    for row in rows:
        x = np.array(values[row["layer"], row["token_id"]])
        assert row["n"] == len(x)
        for column, name in enumerate(("router_entropy", "confidence", "margin")):
            assert row[f"{name}_mean"] == pytest.approx(x[:, column].mean(), rel=1e-5, abs=1e-6)
            assert row[f"{name}_m2"] == pytest.approx(((x[:, column] - x[:, column].mean()) ** 2).sum(), abs=1e-5)

    rows = {(r["layer"], r["token_id"], r["expert"]): r for r in tables["expert_counts"].to_pylist()}
    assert {key: r["chosen"] for key, r in rows.items()} == chosen
    assert {key: r["first"] for key, r in rows.items() if r["first"]} == first
    for key, row in rows.items():
        assert row["weight_sum"] == pytest.approx(weight_sum[key], rel=1e-6)

    for row in tables["layer_stats"].to_pylist():
        layer = row["layer"]
        assert row["coactivation"] == coactivation[layer].flatten().tolist()
        assert [row[c] for c in ("pairs", "first_repeats", "any_repeats", "slot_overlaps")] == repeats[layer].tolist()
        assert row["chosen"] == np.diag(coactivation[layer]).tolist()
        if layer == layers - 1:
            assert row["next_chosen"] is None
        else:
            assert row["next_chosen"] == next_chosen[layer].flatten().tolist()
            assert row["next_first"] == next_first[layer].flatten().tolist()
            assert sum(row["next_first_shuffled"]) == row["tokens"]


def test_moments_do_not_cancel():
    """The sum-of-squares formula loses all digits when the mean is large against the spread; Welford does not."""
    accumulator = Accumulator(RouterLayout.uniform(1, 3, 2), 1, CPU)
    logits = torch.tensor([[[0.0, 0.0, 1e-3], [0.0, 0.0, 1.001e-3]]] * 1)
    for index in range(1000):
        batch = RoutedBatch(logits, torch.tensor([[[2], [2]]]), torch.ones(1, 2, 1))
        tokens = TokenBatch.from_sequences(torch.zeros(1, 2, dtype=torch.long), torch.zeros(1, 2))
        accumulator.update(tokens, batch, index)
    row = accumulator.tables("d")["token_stats"].to_pylist()[0]
    confidence = torch.softmax(logits, -1).amax(-1).double().flatten()
    assert row["confidence_m2"] == pytest.approx(
        float(1000 * (confidence - confidence.mean()).square().sum()), rel=1e-9
    )


def test_half_precision_entropy_is_finite_and_right():
    """log(p + 1e-10) in float16 underflows to NaN; widening first does not."""
    logits = torch.tensor([[[12.0, -12.0, -30.0, 0.0]]])
    for dtype, tolerance in ((torch.float16, 1e-4), (torch.bfloat16, 1e-4)):
        batch = RoutedBatch(logits.to(dtype), torch.tensor([[[0, 3]]]), torch.tensor([[[0.9, 0.1]]]).to(dtype))
        tokens = TokenBatch.from_sequences(torch.zeros(1, 1, dtype=torch.long), torch.zeros(1, 1))
        accumulator = Accumulator(RouterLayout.uniform(1, 4, 2), 1, CPU)
        accumulator.update(tokens, batch, 0)
        row = accumulator.tables("d")["token_stats"].to_pylist()[0]
        p = torch.softmax(logits.double(), -1)[0, 0]
        assert row["router_entropy_mean"] == pytest.approx(float(-(p * p.log()).sum()), abs=tolerance)
        half = torch.softmax(logits.half(), -1)
        assert not torch.isfinite((half * (half + 1e-10).log()).sum())  # what earlier code computed


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_nonfinite_decisions_are_counted_and_never_averaged_in(bad):
    tokens, document, batch = random_decisions(5)
    logits = batch.logits.clone()
    logits[1, 7, 2] = bad
    poisoned = accumulate([(tokens, document, RoutedBatch(logits, batch.experts, batch.weights))])
    assert poisoned.nonfinite.tolist() == [0, 1, 0]
    clean = accumulate([(tokens, document, batch)]).tables("d")
    dirty = poisoned.tables("d")
    assert dirty["token_stats"].filter(_layer(dirty["token_stats"], 0)) == clean["token_stats"].filter(
        _layer(clean["token_stats"], 0)
    )
    kept = [t for t in range(30) if t != 7]
    expected = by_the_book(tokens, document, batch)[0]
    row = next(
        (r for r in dirty["token_stats"].to_pylist() if r["layer"] == 1 and r["token_id"] == int(tokens.flatten()[7])),
        {"n": 0},
    )
    assert row["n"] == len(expected[1, int(tokens.flatten()[7])]) - 1
    stats = dirty["layer_stats"].to_pylist()[1]
    assert stats["tokens"] == len(kept) and stats["nonfinite"] == 1
    assert sum(stats["chosen"]) == 2 * len(kept)
    assert all(np.isfinite(dirty["token_stats"]["router_entropy_mean"].to_numpy()))


def _layer(table, layer):
    import pyarrow.compute as pc

    return pc.equal(table["layer"], layer)


def test_shuffled_joint_choices_have_no_information_where_the_real_ones_do():
    """Negative control: layer l+1 copies layer l, and the shuffle must destroy that."""
    _, document, batch = random_decisions(3, sequences=40, length=50, layers=2, k=1, experts=4)
    copied = RoutedBatch(
        batch.logits[:1].expand(2, -1, -1), batch.experts[:1].expand(2, -1, -1), batch.weights[:1].expand(2, -1, -1)
    )
    tokens = torch.zeros(40, 50, dtype=torch.long)
    accumulator = accumulate([(tokens, document, copied)], layers=2, vocabulary=1, experts=4)
    row = accumulator.tables("d")["layer_stats"].to_pylist()[0]
    real, shuffled = (np.array(row[name]).reshape(4, 4) for name in ("next_first", "next_first_shuffled"))
    assert np.count_nonzero(real - np.diag(np.diag(real))) == 0
    assert np.diag(shuffled).sum() / shuffled.sum() < 0.4


def test_state_continues_where_it_was_saved():
    decisions = [random_decisions(seed) for seed in range(4)]
    whole = accumulate(decisions)
    half = accumulate(decisions[:2])
    saved = {name: tensor.clone() for name, tensor in half.state().items()}
    resumed = Accumulator(RouterLayout.uniform(3, 6, 2), 20, CPU)
    resumed.load_state(saved)
    for index in (2, 3):
        tokens, document, batch = decisions[index]
        resumed.update(TokenBatch.from_sequences(tokens, document), batch, index)
    for kind, table in whole.tables("d").items():
        assert resumed.tables("d")[kind] == table


def test_state_of_another_model_is_refused():
    with pytest.raises(VarError, match="does not have the shape of this model"):
        Accumulator(RouterLayout.uniform(3, 6, 2), 20, CPU).load_state(
            Accumulator(RouterLayout.uniform(3, 8, 2), 20, CPU).state()
        )


def test_tables_do_not_change_when_the_accumulator_goes_on():
    accumulator = accumulate([random_decisions(1)])
    tables = accumulator.tables("d")
    before = {kind: table.to_pylist() for kind, table in tables.items()}
    accumulator.reset()
    assert {kind: table.to_pylist() for kind, table in tables.items()} == before
