"""Making tables from the files that a capture leaves, and taking what of them the fast path shall use."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from policy_splits import (
    FIRST_APART,
    LAYOUT,
    E,
    K,
    V,
    another,
    at_random,
    by_pair,
    by_token,
    calibrated,
    fitted,
    routed,
    sometimes_by_pair,
    text,
    write_split,
)
from var_core.corpus.shards import position_ids
from var_core.errors import VarError
from var_core.parquet import write_batches
from var_core.policy.calibration import calibrate
from var_core.policy.fit import Minimums, Pairs, fit_tables, take_agreeing, take_classic, take_listed
from var_core.policy.recorded import read_decisions, recall_at_k, set_agreement
from var_core.traces.batch import trace_rows
from var_core.traces.schema import TRACE


def usable_rows(tables, ids):
    """Rows that the fast path takes of one document a sequence, [L, S * T]."""
    tokens = torch.from_numpy(ids)
    previous = torch.cat((torch.full((len(ids), 1), -1), tokens[:, :-1]), dim=1)
    position = torch.arange(ids.shape[1]).expand(ids.shape)
    return tables.usable_row(tables.rows(tokens.flatten(), previous.flatten(), position.flatten()))


def test_what_follows_from_the_token_is_found_and_agrees(tmp_path):
    tables = take_agreeing(calibrated(tmp_path, by_token), 0.9)
    for layer in range(2):
        assert tables.experts[layer, :V].sort(dim=1).values.tolist() == [
            sorted(((token + layer) % E, (token + layer + 1) % E)) for token in range(V)
        ]
    assert tables.weights[:, :V].sum(dim=2) == pytest.approx(1.0)
    assert tables.agreement[:, :V].tolist() == [[1.0] * V] * 2
    assert tables.usable[:, :V].all()
    # Pairs do no better, so there are none; the row for everything is never chosen.
    assert not len(tables.pairs) and not tables.usable[:, -1].any()


def test_pairs_are_taken_where_they_do_better(tmp_path):
    tables = take_agreeing(calibrated(tmp_path, by_pair), 0.9)
    assert not tables.usable[:, :V].any()
    assert tables.usable[:, V:-1].float().mean() > 0.9
    ids, _ = another(tmp_path, by_pair, 7)
    row, batch = usable_rows(tables, ids), routed(ids, by_pair)
    for layer in range(2):
        taken = row[layer] >= V
        given = tables.experts[layer, row[layer][taken]].long().numpy()
        assert taken.float().mean() > 0.8
        assert set_agreement(given, batch.experts[layer][taken].numpy()).mean() == 1.0


def test_a_pair_that_agrees_less_is_left_to_the_router(tmp_path):
    """A token that can be known, but not after one other: that pair is an exception."""
    random = np.random.default_rng(3)

    def rule(layer, previous, token):
        return np.where((token == 0) & (previous == 1), random.integers(E, size=token.shape), token + layer)

    tables = take_agreeing(calibrated(tmp_path, rule, sequences=120), 0.9)
    ids, _ = another(tmp_path, rule, 7)
    pair = np.concatenate([np.zeros((len(ids), 1), bool), (ids[:, 1:] == 0) & (ids[:, :-1] == 1)], axis=1)
    for row in usable_rows(tables, ids):
        assert (row.numpy() >= 0).tolist() == (~pair.ravel()).tolist()


@pytest.mark.parametrize("rule", [by_token, by_pair, sometimes_by_pair, at_random(0)])
def test_what_is_taken_at_a_threshold_is_taken_at_a_lower_one(tmp_path, rule):
    tables = calibrated(tmp_path, rule)
    ids, _ = another(tmp_path, rule, 7)
    before = torch.zeros(2, ids.size, dtype=torch.bool)
    for threshold in (1.1, 1.0, 0.9, 0.6, 0.4, 0.2, 0.0):
        taken = usable_rows(take_agreeing(tables, threshold), ids) >= 0
        assert not (before & ~taken).any()
        before = taken
    assert before.all()


def test_random_routing_is_not_covered(tmp_path):
    """Negative control: where nothing can be known, nothing is promised."""
    assert not take_agreeing(calibrated(tmp_path, at_random(0)), 0.5).usable.any()


def test_without_a_trace_there_are_tables_by_token_only(tmp_path):
    ids = text(0)
    statistics, _ = write_split(tmp_path / "fit", ids, routed(ids, by_token))
    tables = fit_tables(statistics, LAYOUT, V, isolate_documents=True)
    assert not len(tables.pairs) and not len(tables.positions)
    made = calibrate(tables, LAYOUT, another(tmp_path, by_token, 1)[1], isolate_documents=True)
    assert made.agreement[:, :V].tolist() == [[1.0] * V] * 2


def test_the_classic_predicate_knows_no_pairs(tmp_path):
    tables = calibrated(tmp_path, by_pair)
    assert len(tables.pairs)
    n = torch.tensor([[60, 50, 60, 60, 0, 60]] * 2)
    entropy = torch.tensor([[0.1, 0.1, 0.5, 0.4, float("nan"), 2.0]] * 2)
    taken = take_classic(tables, n, entropy, 50, 0.5)
    assert taken.usable[:, :V].tolist() == [[True, False, False, True, False, False]] * 2
    ids, _ = another(tmp_path, by_pair, 7)
    assert (usable_rows(taken, ids) >= 0).tolist() == [np.isin(ids.ravel(), [0, 3]).tolist()] * 2


def test_listed_tokens_are_taken_in_every_context(tmp_path):
    tables = take_agreeing(calibrated(tmp_path, at_random(0)), 0.9)
    assert len(tables.pairs) and not tables.usable.any()
    ids, _ = another(tmp_path, by_pair, 7)
    assert (usable_rows(take_listed(tables, [2]), ids) >= 0).tolist() == [(ids.ravel() == 2).tolist()] * 2
    with pytest.raises(VarError, match=r"policy\.static_tokens: token id 6"):
        take_listed(tables, [6])


@pytest.mark.parametrize("isolated", [True, False])
def test_places_restart_with_every_document_where_they_are_isolated(tmp_path, isolated):
    ids = text(3, 2, 6)
    document = np.array([[0, 0, 1, 1, 1, 2], [2, 2, 2, 3, 3, 3]])
    batch = routed(ids, by_token)
    write_batches(tmp_path / "t.parquet", TRACE, [trace_rows(np.arange(2), ids, document, "d", batch, None, E)], {})
    found = read_decisions([tmp_path / "t.parquet"], 1, E, K, isolated)
    assert found.experts.tolist() == batch.experts[1].tolist()
    before = found.previous.reshape(2, 6).tolist()
    if isolated:
        assert found.position.tolist() == position_ids(document).ravel().tolist()
        assert before[0] == [-1, ids[0, 0], -1, ids[0, 2], ids[0, 3], -1]
    else:
        assert found.position.tolist() == [0, 1, 2, 3, 4, 5] * 2
        assert before == [[-1, *row[:-1]] for row in ids.tolist()]


def test_a_document_that_is_missing_ends_the_context(tmp_path):
    """As in the calibration half of a trace: its documents keep their places, and what was before is not known."""
    ids, document = text(3, 1, 6), np.array([[0, 0, 1, 1, 2, 2]])
    batch = routed(ids, by_token)
    rows = trace_rows(np.arange(1), ids, document, "d", batch, None, E)
    kept = rows.filter([value != 1 for value in rows["document"].to_pylist()])
    write_batches(tmp_path / "t.parquet", TRACE, [kept], {})
    found = read_decisions([tmp_path / "t.parquet"], 0, E, K, isolate_documents=False)
    assert found.position.tolist() == [0, 1, 4, 5]
    assert found.previous.tolist() == [-1, ids[0, 0], -1, ids[0, 4]]


def test_documents_that_are_not_isolated_give_contexts_to_each_other(tmp_path):
    ids = text(0)
    statistics, traces = write_split(tmp_path / "fit", ids, routed(ids, by_pair))
    document = np.arange(ids.size).reshape(ids.shape)  # every token a document of its own
    rows = trace_rows(np.arange(len(ids)), ids, document, "d", routed(ids, by_pair), None, E)
    write_batches(tmp_path / "t.parquet", TRACE, [rows], {})
    for isolated in (True, False):
        tables = fit_tables(
            statistics, LAYOUT, V, [tmp_path / "t.parquet"], isolate_documents=isolated, pairs=FIRST_APART
        )
        whole = fit_tables(statistics, LAYOUT, V, traces, isolate_documents=True, pairs=FIRST_APART)
        assert (tables.pairs.tolist() == whole.pairs.tolist()) is not isolated
        assert (tables.pairs // V == V).all() == isolated


def test_pairs_are_those_seen_most_and_often_enough(tmp_path):
    ids = text(0)
    statistics, traces = write_split(tmp_path / "fit", ids, routed(ids, by_pair))
    context = np.concatenate([np.full((len(ids), 1), V), ids[:, :-1]], axis=1)
    keys, n = np.unique(context * V + ids, return_counts=True)
    tables = fit_tables(statistics, LAYOUT, V, traces, Minimums(pair=9), isolate_documents=True, pairs=FIRST_APART)
    assert 0 < (n >= 9).sum() < len(keys)
    assert tables.pairs.tolist() == keys[n >= 9].tolist()
    some = fit_tables(statistics, LAYOUT, V, traces, isolate_documents=True, pairs=replace(FIRST_APART, most=5))
    assert sorted(n[np.isin(keys, some.pairs)]) == sorted(n)[-5:]


def test_early_positions_are_contexts_of_their_own(tmp_path):
    def rule(layer, previous, token):
        return token + np.minimum(np.arange(token.shape[1]), 4)

    tables = take_agreeing(calibrated(tmp_path, rule, pairs=Pairs(positions=(0, 1, 2, 3, 4))), 0.9)
    row = usable_rows(tables, another(tmp_path, rule, 7)[0]).reshape(2, 40, 12)
    assert (row >= 0).all()
    context = tables.pairs[row[:, :, :4] - V] // V
    assert (context == V + torch.arange(4)).all()
    assert (tables.pairs[(row[:, :, 4:] - V).clamp(min=0)] // V < V).all()


def test_rare_pairs_are_drawn_to_their_token(tmp_path):
    """Of two decisions that disagree, the one that the token mostly gets decides."""
    alone, drawn = (fitted(tmp_path, at_random(5), replace(FIRST_APART, like_token=like)) for like in (0.0, 1000.0))
    of_token = drawn.experts[:, drawn.pairs % V].sort(dim=2).values
    assert (drawn.experts[:, V:-1].sort(dim=2).values == of_token).all()
    assert not (alone.experts[:, V:-1].sort(dim=2).values == of_token).all()


def test_agreement_and_recall():
    given, learned = np.array([[1, 2], [1, 2], [1, 5]]), np.array([[2, 1], [1, 3], [1, 5]])
    assert set_agreement(given, learned).tolist() == [1, 0, 1]
    assert recall_at_k(given, learned, 5).tolist() == [1, 0.5, 1]


def test_layers_with_fewer_slots_keep_them_empty(tmp_path):
    layout = replace(LAYOUT, layers=(LAYOUT.layers[0], replace(LAYOUT.layers[1], top_k=1)))
    ids = text(0)
    batch = routed(ids, by_token)
    batch.experts[1, :, 1] = E
    batch = replace(batch, weights=batch.weights.masked_fill(batch.experts == E, 0))
    statistics, traces = write_split(tmp_path / "fit", ids, batch)
    tables = fit_tables(statistics, layout, V, traces, isolate_documents=True)
    tables = calibrate(tables, layout, traces, isolate_documents=True)
    assert (tables.experts[1, :V, 1] == E).all()
    assert tables.agreement[1, :V].tolist() == [1.0] * V
