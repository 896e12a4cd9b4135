"""Replaying recorded routing decides as the running model does, every decision."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from moe_models import VOCABULARY
from policy_traces import Everything, write_trace
from var_core.errors import VarError
from var_core.parquet import write_batches
from var_core.policy.cache import CacheLimits
from var_core.policy.replay import replay, sum_by_sequence
from var_core.policy.settings import BudgetSettings, CacheSettings, PolicySettings
from var_core.policy.ways import Way
from var_core.traces.batch import trace_rows
from var_core.traces.schema import TRACE

CACHE = CacheSettings(CacheLimits(2, 6, 30), confidence_threshold=0.3)
SETTINGS = {
    "table": PolicySettings(),
    "cache": PolicySettings(cache=CACHE),
    "budget": PolicySettings(cache=CACHE, budget=BudgetSettings(0.3, 10)),
    "shared": PolicySettings(cache=replace(CACHE, shared=True)),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_every_decision_is_that_of_the_running_model(subject, tmp_path, name):
    random = torch.Generator().manual_seed(4)
    ids = torch.randint(10, (6, 40), generator=random)
    document = np.cumsum(np.random.default_rng(4).random(ids.shape) < 0.05, axis=1)
    positions = torch.from_numpy(np.stack([_places(row) for row in document]))
    other = torch.randint(10, (4, 40), generator=random)
    tables = subject.table(other, subject.decisions(other))
    usable = tables.present & (torch.arange(tables.present.shape[1]) % 4 == 0)
    tables, everything = replace(tables, usable=usable), Everything()
    with subject.policy(tables, SETTINGS[name], observers=[everything]):
        for rows in torch.arange(6).split(2):
            subject.logits(ids[rows], position_ids=positions[rows], use_cache=False)
    traces = write_trace(tmp_path / "t.parquet", ids, document, everything.records, subject.layout.experts)
    seen = set()
    for each in replay(tables, SETTINGS[name], subject.layout, traces, True):
        live = [record for record in everything.records if record.layer == each.layer]
        assert each.way.ravel().tolist() == torch.cat([record.way for record in live]).tolist()
        assert each.experts.reshape(-1, each.experts.shape[2]).tolist() == torch.cat([r.experts for r in live]).tolist()
        seen |= set(each.way.ravel().tolist())
    assert seen == ({0, 1} if name == "table" else {0, 1, 2})


def _places(document):
    starts = np.concatenate([[True], document[1:] != document[:-1]])
    return np.arange(len(document)) - np.maximum.accumulate(np.where(starts, np.arange(len(document)), 0))


def test_sums_are_those_of_every_decision(mixtral, tmp_path):
    ids = torch.randint(10, (5, 20), generator=torch.Generator().manual_seed(0))
    tables = mixtral.table(ids, mixtral.decisions(ids))
    tables = replace(tables, usable=tables.present & (torch.arange(VOCABULARY + 1) % 2 == 0))
    everything = Everything()
    with mixtral.policy(tables, SETTINGS["cache"], observers=[everything]):
        mixtral.logits(ids)
    document = np.repeat(np.arange(5)[:, None], 20, axis=1)
    traces = write_trace(tmp_path / "t.parquet", ids, document, everything.records, 8)
    sums = sum_by_sequence(replay(tables, SETTINGS["cache"], mixtral.layout, traces, True), mixtral.layout)
    assert sums.decisions.sum(axis=2).tolist() == [[20] * 3] * 5
    learned = int(Way.LEARNED)
    assert sums.set_agreement[..., learned].tolist() == sums.decisions[..., learned].tolist()
    for record in everything.records:
        same = (record.experts.sort(dim=1).values == record.learned_experts.sort(dim=1).values).all(dim=1)
        for way in Way:
            expected = (same & (record.way == int(way))).view(5, 20).sum(dim=1).tolist()
            assert sums.set_agreement[:, record.layer, int(way)].tolist() == expected


def test_a_cache_needs_confidence(mixtral, tmp_path):
    ids = torch.randint(10, (2, 8))
    batch = mixtral.decisions(ids)
    rows = trace_rows(np.arange(2), ids.numpy(), np.zeros((2, 8), int), "d", replace(batch, logits=None), None, 8)
    write_batches(tmp_path / "t.parquet", TRACE, [rows], {})
    tables = mixtral.table(ids, batch)
    with pytest.raises(VarError, match="no confidence"):
        next(replay(tables, SETTINGS["cache"], mixtral.layout, [tmp_path / "t.parquet"], True))
    next(replay(tables, SETTINGS["table"], mixtral.layout, [tmp_path / "t.parquet"], True))
