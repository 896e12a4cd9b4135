"""Splits of text whose routing follows a rule, with the files that a capture leaves."""

import numpy as np
import torch

from var_core.parquet import write_batches, write_table
from var_core.policy.calibration import PairChoice, calibrate
from var_core.policy.fit import Pairs, fit_tables
from var_core.routing.batch import RoutedBatch, RouterLayout
from var_core.statistics.accumulator import Accumulator, TokenBatch
from var_core.traces.batch import trace_rows
from var_core.traces.schema import TRACE

V, E, K = 6, 5, 2
LAYOUT = RouterLayout.uniform(2, E, K)
FIRST_APART = Pairs(positions=(0, 1))
"""Only the first token of a document goes by its position."""


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


def sometimes_by_pair(layer, previous, token):
    """Token 0 as it comes, but after token 1, where it has other experts; the others always as they come."""
    return np.where((token == 0) & (previous == 1), 2, token) + layer


def at_random(seed):
    random = np.random.default_rng(seed)
    return lambda layer, previous, token: random.integers(E, size=token.shape)


def fitted(folder, rule, pairs=FIRST_APART, seed=0, sequences=40):
    """Tables that were fitted to a split."""
    ids = text(seed, sequences)
    statistics, traces = write_split(folder / f"fit-{seed}", ids, routed(ids, rule))
    return fit_tables(statistics, LAYOUT, V, traces, isolate_documents=True, pairs=pairs)


def another(folder, rule, seed, sequences=40):
    """Text of another split, and its trace."""
    ids = text(seed, sequences)
    return ids, write_split(folder / f"split-{seed}", ids, routed(ids, rule))[1]


def calibrated(folder, rule, choice=PairChoice(), pairs=FIRST_APART, seed=0, sequences=40):
    """Tables that were fitted to a split and calibrated on another."""
    tables = fitted(folder, rule, pairs, seed, sequences)
    traces = another(folder, rule, seed + 1, sequences)[1]
    return calibrate(tables, LAYOUT, traces, isolate_documents=True, choice=choice)
