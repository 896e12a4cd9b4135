"""Making tables from the files that a capture leaves."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from var_core.corpus.shards import position_ids
from var_core.errors import VarError
from var_core.parquet import write_batches, write_table
from var_core.policy.fit import calibrate, fit_tables, take_agreeing, take_classic, take_listed
from var_core.policy.recorded import read_decisions, recall_at_k, set_agreement
from var_core.routing.batch import RoutedBatch, RouterLayout
from var_core.statistics.accumulator import Accumulator, TokenBatch
from var_core.traces.batch import trace_rows
from var_core.traces.schema import TRACE

V, E, K = 6, 5, 2
LAYOUT = RouterLayout.uniform(2, E, K)


def routed(ids, rule):
    """Decisions by a rule (layer, previous, token) -> first expert; the second is the next one."""
    previous = np.concatenate([np.full((len(ids), 1), -1), ids[:, :-1]], axis=1)
    first = np.stack([rule(layer, previous, ids) % E for layer in range(2)]).reshape(2, -1)
    experts = torch.from_numpy(np.stack([first, (first + 1) % E], axis=-1))
    weights = torch.tensor([0.75, 0.25]).expand(experts.shape)
    return RoutedBatch(None, experts, weights)


def write_split(folder, ids, batch):
    """The statistics and the trace of a split of one document a sequence, as capture writes them."""
    document = np.repeat(np.arange(len(ids))[:, None], ids.shape[1], axis=1)
    accumulator = Accumulator(LAYOUT, V, torch.device("cpu"), logits=False)
    accumulator.update(TokenBatch.from_sequences(torch.from_numpy(ids), torch.from_numpy(document)), batch, 0)
    for kind, table in accumulator.tables("d").items():
        write_table(folder / f"{kind}.parquet", table, {})
    rows = trace_rows(np.arange(len(ids)), ids, document, "d", batch, None, E)
    write_batches(folder / "trace.parquet", TRACE, [rows], {})
    return folder, [folder / "trace.parquet"]


def text(seed, sequences=40, length=12):
    return np.random.default_rng(seed).integers(V, size=(sequences, length))


def by_token(layer, previous, token):
    return token + layer


def by_pair(layer, previous, token):
    return np.where(previous < 0, 0, previous * 2 + token + layer)


def splits(tmp_path, rule):
    fit, calibration = text(0), text(1)
    statistics, traces = write_split(tmp_path / "fit", fit, routed(fit, rule))
    _, others = write_split(tmp_path / "calibration", calibration, routed(calibration, rule))
    return statistics, traces, others, calibration


def test_what_follows_from_the_token_is_found_and_agrees(tmp_path):
    statistics, traces, others, _ = splits(tmp_path, by_token)
    tables = take_agreeing(calibrate(fit_tables(statistics, LAYOUT, V, traces), LAYOUT, others), 0.9)
    for layer in range(2):
        assert tables.experts[layer, :V].sort(dim=1).values.tolist() == [
            sorted(((token + layer) % E, (token + layer + 1) % E)) for token in range(V)
        ]
    assert tables.weights[:, :V].sum(dim=2) == pytest.approx(1.0)
    assert tables.agreement[:, :V].tolist() == [[1.0] * V] * 2
    assert tables.usable[:, :V].all()
    # Pairs do no better, so they are left out; the row for everything is never chosen.
    assert not tables.usable[:, V : V + len(tables.pairs)].any() and not tables.usable[:, -1].any()


def test_pairs_are_taken_where_they_do_better(tmp_path):
    statistics, traces, others, calibration = splits(tmp_path, by_pair)
    tables = calibrate(fit_tables(statistics, LAYOUT, V, traces), LAYOUT, others)
    tables = take_agreeing(tables, 0.9)
    assert not tables.usable[:, :V].any()
    assert tables.usable[:, V : V + len(tables.pairs)].float().mean() > 0.9
    ids = torch.from_numpy(calibration)
    previous = torch.cat((torch.full((len(ids), 1), -1), ids[:, :-1]), dim=1)
    rows = tables.rows(ids.flatten(), previous.flatten(), torch.zeros(ids.numel(), dtype=torch.int64))
    row, batch = tables.usable_row(rows), routed(calibration, by_pair)
    for layer in range(2):
        taken = row[layer] >= V
        given = tables.experts[layer, row[layer][taken]].long().numpy()
        assert taken.float().mean() > 0.8
        assert set_agreement(given, batch.experts[layer][taken].numpy()).mean() == 1.0


def test_random_routing_is_not_covered(tmp_path):
    """Negative control: where nothing can be known, nothing is promised."""
    random = np.random.default_rng(0)
    statistics, traces, others, _ = splits(
        tmp_path, lambda layer, previous, token: random.integers(E, size=token.shape)
    )
    tables = calibrate(fit_tables(statistics, LAYOUT, V, traces), LAYOUT, others)
    assert not take_agreeing(tables, 0.5).usable.any()


def test_without_a_trace_there_are_tables_by_token_only(tmp_path):
    statistics, _, others, _ = splits(tmp_path, by_token)
    tables = fit_tables(statistics, LAYOUT, V)
    assert not len(tables.pairs) and not len(tables.positions)
    assert calibrate(tables, LAYOUT, others).agreement[:, :V].tolist() == [[1.0] * V] * 2


def test_the_classic_predicate(tmp_path):
    tables = fit_tables(splits(tmp_path, by_token)[0], LAYOUT, V)
    n = torch.tensor([[60, 50, 60, 60, 0, 60]] * 2)
    entropy = torch.tensor([[0.1, 0.1, 0.5, 0.4, float("nan"), 2.0]] * 2)
    taken = take_classic(tables, n, entropy, 50, 0.5)
    assert taken.usable[:, :V].tolist() == [[True, False, False, True, False, False]] * 2
    assert take_listed(taken, [2]).usable[0, :V].tolist() == [True, False, True, True, False, False]
    with pytest.raises(VarError, match=r"policy\.static: token id 6"):
        take_listed(taken, [6])


def test_places_restart_with_every_document_of_a_sequence(tmp_path):
    ids = text(3, 2, 6)
    document = np.array([[0, 0, 1, 1, 1, 2], [2, 2, 2, 3, 3, 3]])
    batch = routed(ids, by_token)
    write_batches(tmp_path / "t.parquet", TRACE, [trace_rows(np.arange(2), ids, document, "d", batch, None, E)], {})
    found = read_decisions([tmp_path / "t.parquet"], 1, E, K)
    assert found.position.tolist() == position_ids(document).ravel().tolist()
    assert found.previous.reshape(2, 6)[0].tolist() == [-1, ids[0, 0], -1, ids[0, 2], ids[0, 3], -1]
    assert found.experts.tolist() == batch.experts[1].tolist()


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
    tables = calibrate(fit_tables(statistics, layout, V, traces), layout, traces)
    assert (tables.experts[1, :V, 1] == E).all()
    assert tables.agreement[1, :V].tolist() == [1.0] * V
