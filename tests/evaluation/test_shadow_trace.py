"""The trace of a policy's run replays to the very decisions that it made in the model."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from moe_models import VOCABULARY
from policy_subject import Subject as Small
from var_core.evaluation.arms import Subject, run_policy
from var_core.evaluation.shadow_trace import ShadowTrace
from var_core.evaluation.text import Text
from var_core.parquet import read_provenance
from var_core.policy.cache import CacheLimits
from var_core.policy.replay import replay, sum_by_sequence
from var_core.policy.settings import BudgetSettings, CacheSettings, PolicySettings

CACHE = CacheSettings(CacheLimits(2, 8, 40), 0.3)
SETTINGS = {
    "tables": PolicySettings(),
    "cache": PolicySettings(cache=CACHE),
    "budget": PolicySettings(cache=CACHE, budget=BudgetSettings(0.3, 10)),
}


@pytest.mark.parametrize("isolate", [True, False])
@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe"])
def test_replayed_it_gives_the_same_ways_and_agreement(tmp_path, family, name, isolate):
    small = Small.of(family)
    random = np.random.default_rng(0)
    ids = random.integers(12, size=(7, 30))
    document = np.cumsum(random.random(ids.shape) < 0.1, axis=1) + 10 * np.arange(7)[:, None]
    text = replace(Text.of(ids, document, isolate, 3), sequence=np.array([3, 4, 8, 9, 20, 21, 22]))
    other = torch.randint(12, (6, 40), generator=torch.Generator().manual_seed(1))
    tables = small.table(other, small.decisions(other), VOCABULARY)
    tables = replace(tables, usable=tables.present & (torch.arange(tables.present.shape[1]) % 3 == 0))
    subject = Subject(small.model, small.sites, small.layout, {})
    path = tmp_path / "trace.parquet"
    with ShadowTrace(path, text, small.layout, {"policy": {"model": "m"}}) as trace:
        arm = run_policy(subject, text, tables, SETTINGS[name], observers=[trace])
    assert read_provenance(path) == {"policy": {"model": "m"}}
    sums = sum_by_sequence(replay(tables, SETTINGS[name], small.layout, [path], isolate), small.layout)
    assert sums.sequence.tolist() == text.sequence.tolist()
    assert sums.decisions.tolist() == arm.ways.decisions.tolist()
    assert sums.set_agreement.tolist() == arm.ways.set_agreement.tolist()
    assert sums.recall_at_k == pytest.approx(arm.ways.recall_at_k)
    assert (arm.ways.decisions.sum(axis=(0, 1))[: 2 if name == "tables" else 3] > 0).all()


def test_an_interrupted_run_leaves_no_trace(tmp_path, monkeypatch):
    small = Small.of("mixtral")
    text = Text.of(np.zeros((4, 8), int), np.zeros((4, 8), int), True, 2)
    ids = torch.from_numpy(text.input_ids)
    tables, calls = small.table(ids, small.decisions(ids)), []

    def advance(tokens):
        calls.append(tokens)
        raise KeyboardInterrupt

    subject = Subject(small.model, small.sites, small.layout, {})
    path = tmp_path / "trace.parquet"
    with pytest.raises(KeyboardInterrupt), ShadowTrace(path, text, small.layout, {}) as trace:
        run_policy(subject, text, tables, PolicySettings(), advance, observers=[trace])
    assert calls and list(tmp_path.iterdir()) == []
