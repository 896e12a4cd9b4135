"""Segment predictability against a count by hand, and what it is where there is nothing to find."""

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from var_core.parquet import write_batches
from var_core.routing.batch import RoutedBatch
from var_core.traces.batch import trace_rows
from var_core.traces.schema import TRACE
from var_core.traces.segments import (
    measure_segments,
    segment_predictability,
    segment_predictability_chance,
    window_uses,
)


def by_hand(experts, follows, window, count):
    """Best F1 over the threshold, window by window and token by token."""
    best = 0.0
    for threshold in range(1, window + 1):
        right = named = chosen = 0
        for start in range(len(experts) - window + 1):
            if not follows[start + 1 : start + window].all():
                continue
            tokens = [set(row) for row in experts[start : start + window].tolist()]
            active = {e for e in range(count) if sum(e in token for token in tokens) >= threshold}
            right += sum(len(token & active) for token in tokens)
            named += window * len(active)
            chosen += sum(map(len, tokens))
        best = max(best, 2 * right / (named + chosen) if chosen else 0.0)
    return best


def random_choices(tokens, layers, count, top_k, seed=0):
    scores = np.random.default_rng(seed).random((tokens, layers, count))
    return scores.argsort(-1)[..., :top_k]


@pytest.mark.parametrize("window", [2, 5, 16])
def test_it_is_the_best_f1_of_one_threshold(window):
    experts = random_choices(60, 2, 6, 2) % 5
    experts[..., 1] = np.where(experts[..., 0] == experts[..., 1], 5, experts[..., 1])
    follows = np.random.default_rng(1).random(60) < 0.95
    follows[0] = False
    uses = window_uses(experts, follows, window, 6)
    for layer in range(2):
        expected = by_hand(experts[:, layer], follows, window, 6)
        got = segment_predictability(uses[layer])
        assert got == pytest.approx(expected) if expected else np.isnan(got)


def test_even_and_independent_routing_is_at_chance_and_constant_routing_is_perfect():
    follows = np.arange(4000) > 0
    at_random = segment_predictability(window_uses(random_choices(4000, 1, 16, 2), follows, 16, 16)[0])
    assert at_random == pytest.approx(segment_predictability_chance(16, 2, 16), abs=0.01)
    constant = np.tile([3, 7], (100, 1, 1))
    assert segment_predictability(window_uses(constant, follows[:100], 16, 16)[0]) == 1.0


def test_a_window_with_a_decision_that_is_not_there_is_left_out_at_that_layer_only():
    experts = random_choices(40, 2, 8, 2)
    experts[20, 1] = 8
    follows = np.arange(40) > 0
    uses = window_uses(experts, follows, 4, 8)
    assert uses.sum(axis=1).tolist() == [8 * 37, 8 * 33]
    assert (uses * np.arange(5)).sum(axis=1).tolist() == [37 * 4 * 2, 33 * 4 * 2]


def test_no_window_no_value():
    assert np.isnan(segment_predictability(window_uses(random_choices(3, 1, 4, 2), np.arange(3) > 0, 16, 4)[0]))


@pytest.fixture
def trace_files(tmp_path):
    """Two shards with sequences of two documents, one decision of which went to no expert."""
    site = {"path": "", "experts": 6, "top_k": 2}
    record = {"plan": "p", "sites": [{"layer": layer, **site} for layer in range(2)]}
    blocks, paths = [], []
    for shard in range(2):
        rows = []
        for sequence in range(5):
            experts = random_choices(30, 2, 6, 2, seed=10 * shard + sequence)
            experts[11, 1] = 6
            document = np.repeat([2 * sequence, 2 * sequence + 1], [14, 16])
            domain = "ab"[sequence % 2]
            blocks.append((domain, experts, np.append(False, np.diff(document) == 0)))
            batch = RoutedBatch(None, torch.from_numpy(experts).transpose(0, 1), None)
            rows.append(trace_rows(np.array([5 * shard + sequence]), None, document[None], domain, batch, None, 6))
        paths.append(tmp_path / f"heldout-{shard:05d}.trace.parquet")
        write_batches(paths[-1], TRACE, rows, record)
    return blocks, paths


@pytest.mark.parametrize("rows_a_batch", [17, 1 << 16])
def test_trace_files_are_measured_whatever_batches_they_are_read_in(trace_files, tmp_path, monkeypatch, rows_a_batch):
    monkeypatch.setattr("var_core.traces.segments._ROWS", rows_a_batch)
    blocks, paths = trace_files
    measure_segments({"heldout": paths, "capture": ()}, (4, 8), tmp_path / "segments.parquet", "c0de")
    found = pq.read_table(tmp_path / "segments.parquet").to_pandas()
    assert set(found.split) == {"heldout"}
    for domain in "ab":
        for window in (4, 8):
            expected = sum(window_uses(experts, follows, window, 6) for of, experts, follows in blocks if of == domain)
            got = np.zeros_like(expected)
            rows = found[(found.domain == domain) & (found.window_length == window)]
            got[rows.layer, rows.uses] = rows.cells
            assert np.array_equal(got[:, 1:], expected[:, 1:])


def test_layers_with_fewer_slots_are_measured_as_well_as_the_others(tmp_path):
    experts = random_choices(50, 2, 6, 3, seed=3)
    experts[:, 1, 1:] = 6
    experts[30, 1] = 6  # no decision
    sites = [{"layer": layer, "path": "", "experts": 6, "top_k": top_k} for layer, top_k in enumerate((3, 1))]
    document = np.zeros((1, 50), dtype=np.int64)
    batch = RoutedBatch(None, torch.from_numpy(experts).transpose(0, 1), None)
    path = tmp_path / "heldout-00000.trace.parquet"
    write_batches(
        path, TRACE, [trace_rows(np.array([0]), None, document, "a", batch, None, 6)], {"plan": "p", "sites": sites}
    )
    measure_segments({"heldout": [path]}, (4,), tmp_path / "segments.parquet", "c0de")
    found = pq.read_table(tmp_path / "segments.parquet").to_pandas()
    follows = np.arange(50) > 0
    for layer, top_k in enumerate((3, 1)):
        got = np.zeros((1, 5), dtype=np.int64)
        rows = found[found.layer == layer]
        got[0, rows.uses] = rows.cells
        expected = window_uses(experts[:, [layer], :top_k], follows, 4, 6)
        assert expected[:, 1:].any() and np.array_equal(got[:, 1:], expected[:, 1:])
