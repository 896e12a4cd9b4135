"""Prepared replays decide as the running model does, every decision, and add up what a plain loop adds up."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from policy_traces import Everything, write_trace
from var_core.errors import VarError
from var_core.policy.cache import CacheLimits
from var_core.policy.replay import replay, sum_by_sequence
from var_core.policy.settings import BudgetSettings, CacheSettings, PolicySettings
from var_core.policy.ways import Way
from var_core.tuning.prepared import PreparedTrace
from var_core.tuning.scores import MISPLACED, RECALL, SAME, score_rows

CACHE = CacheSettings(CacheLimits(2, 6, 30), confidence_threshold=0.3)
SETTINGS = {
    "table": PolicySettings(),
    "cache": PolicySettings(cache=CACHE),
    "large cache": PolicySettings(cache=CacheSettings(CacheLimits(3, 500, 700), 0.5)),
    "budget": PolicySettings(cache=CACHE, budget=BudgetSettings(0.3, 10)),
    "budget, no cache": PolicySettings(budget=BudgetSettings(0.2, 10)),
    "live": PolicySettings(weights="live", cache=CACHE),
}


def routed(subject, seed=4, rows=6, length=40, vocabulary=10):
    """Text in which contexts and documents come again, and tables of other text, some rows of which are taken."""
    random = torch.Generator().manual_seed(seed)
    ids = torch.randint(vocabulary, (rows, length), generator=random)
    document = np.cumsum(np.random.default_rng(seed).random(ids.shape) < 0.05, axis=1)
    positions = torch.from_numpy(np.stack([places(row) for row in document]))
    other = torch.randint(vocabulary, (4, 40), generator=random)
    tables = subject.table(other, subject.decisions(other))
    usable = tables.present & (torch.arange(tables.present.shape[1]) % 4 == 0)
    return ids, document, positions, replace(tables, usable=usable)


def places(document):
    starts = np.concatenate([[True], document[1:] != document[:-1]])
    return np.arange(len(document)) - np.maximum.accumulate(np.where(starts, np.arange(len(document)), 0))


@pytest.mark.parametrize("name", [name for name in SETTINGS if name != "live"])
def test_every_decision_is_that_of_the_running_model(subject, tmp_path, name):
    ids, document, positions, tables = routed(subject)
    everything = Everything()
    with subject.policy(tables, SETTINGS[name], observers=[everything]):
        for rows in torch.arange(6).split(2):
            subject.logits(ids[rows], position_ids=positions[rows], use_cache=False)
    traces = write_trace(tmp_path / "t.parquet", ids, document, everything.records, subject.layout.experts)
    prepared = PreparedTrace(traces, subject.layout, {"own": tables}, True)
    seen = set()
    for layer, way in prepared.ways("own", tables.usable, SETTINGS[name]):
        live = torch.cat([record.way for record in everything.records if record.layer == layer])
        assert way.tolist() == live.tolist()
        seen |= set(way.tolist())
    assert len(seen) >= 2


@pytest.fixture(scope="module")
def recorded(mixtral, tmp_path_factory):
    ids, document, positions, tables = routed(mixtral, rows=9)
    everything = Everything()
    nothing = replace(tables, usable=torch.zeros_like(tables.usable))
    with mixtral.policy(nothing, PolicySettings(), observers=[everything]):
        mixtral.logits(ids, position_ids=positions, use_cache=False)
    folder = tmp_path_factory.mktemp("trace")
    traces = write_trace(folder / "t.parquet", ids, document, everything.records, mixtral.layout.experts)
    return traces, tables, PreparedTrace(traces, mixtral.layout, {"own": tables}, True)


@given(
    share=st.floats(0, 1), seed=st.integers(0, 5), window=st.integers(1, 4), capacity=st.integers(0, 50),
    alive=st.integers(1, 60), confidence=st.floats(0, 1), budget=st.sampled_from([None, 0.1, 0.5]),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_sums_are_those_of_the_replay(mixtral, recorded, share, seed, window, capacity, alive, confidence, budget):
    traces, tables, prepared = recorded
    random = torch.Generator().manual_seed(seed)
    usable = tables.present & (torch.rand(tables.present.shape, generator=random) < share)
    cache = CacheSettings(CacheLimits(window, capacity, alive), confidence) if capacity else None
    chosen = PolicySettings(cache=cache, budget=None if budget is None else BudgetSettings(budget, 10))
    sums = prepared.replay("own", usable, chosen)
    own = replace(tables, usable=usable)
    expected = sum_by_sequence(replay(own, chosen, mixtral.layout, traces, True), mixtral.layout)
    assert sums.decisions.tolist() == expected.decisions.tolist()
    np.testing.assert_allclose(sums.values[..., 1 + SAME], expected.set_agreement, atol=1e-5)
    np.testing.assert_allclose(sums.values[..., 1 + RECALL], expected.recall_at_k, atol=1e-5)
    total = expected.decisions.sum()
    assert sums.learned_share == pytest.approx(expected.decisions[..., int(Way.LEARNED)].sum() / total)
    assert sums.values[:, :, int(Way.LEARNED), 1 + MISPLACED].sum() == 0


def test_misplaced_weight_is_the_distance_of_the_distributions_over_experts():
    random = np.random.default_rng(0)
    E, k, N = 7, 3, 200
    rows, learned = (np.argsort(random.random((N, E)), axis=1)[:, :k].astype(np.int16) for _ in range(2))
    table, own = (random.dirichlet(np.ones(k), N).astype(np.float32) for _ in range(2))
    learned[::5, 2], own[::5, 2] = E, 0
    rows[::7, 1], table[::7, 1] = E + 3, 0
    rows[:20], table[:20] = learned[:20], own[:20]
    full = np.zeros((2, N, E + 4))
    for number, (experts, weights) in enumerate(((rows, table), (learned, own))):
        np.put_along_axis(full[number], experts.astype(int), weights, axis=1)
    full = full[:, :, :E]
    distance = np.abs(full[0] - full[1]).sum(axis=1) / 2 / full[1].sum(axis=1)
    missed = np.where(full[0] > 0, 0, full[1]).sum(axis=1) / full[1].sum(axis=1)
    for live, expected in ((False, distance), (True, missed)):
        scores = np.zeros((N, 3), np.float32)
        score_rows(np.arange(N), rows, table, learned, own, E, live, scores)
        np.testing.assert_allclose(scores[:, MISPLACED], expected, atol=1e-6)
        assert scores[:20].tolist() == pytest.approx(np.tile([1.0, 1.0, 0.0], (20, 1)), abs=1e-6)
        assert scores[20:, MISPLACED].mean() > 0.2


def without(column, traces, folder):
    """The trace with a column in which nothing was recorded."""
    rows = pq.read_table(traces[0])
    field = rows.schema.field(column)
    nothing = pa.nulls(len(rows), field.type)
    pq.write_table(rows.set_column(rows.schema.get_field_index(column), field, nothing), folder / "t.parquet")
    return [folder / "t.parquet"]


def test_a_cache_needs_confidence(mixtral, recorded, tmp_path):
    traces, tables, _ = recorded
    prepared = PreparedTrace(without("confidence", traces, tmp_path), mixtral.layout, {"own": tables}, True)
    assert prepared.replay("own", tables.usable, SETTINGS["table"]).learned_share < 1
    with pytest.raises(VarError, match=r"has no confidence; .* needs it"):
        prepared.replay("own", tables.usable, SETTINGS["cache"])


def test_weights_are_needed(mixtral, recorded, tmp_path):
    traces, tables, _ = recorded
    with pytest.raises(VarError, match="no weights"):
        PreparedTrace(without("weights", traces, tmp_path), mixtral.layout, {"own": tables}, True)
