"""A model on a text: as it is, under a policy, under controls, and with its own decisions given back to it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from moe_models import VOCABULARY, build_model
from var_core.evaluation.arms import (
    Subject,
    all_tokens,
    global_table,
    random_experts,
    run_oracle,
    run_plain,
    run_policy,
)
from var_core.evaluation.text import Text
from var_core.policy.cache import CacheLimits
from var_core.policy.fitting import ExpertSums, fit_entries
from var_core.policy.settings import CacheSettings, PolicySettings
from var_core.policy.tables import assemble
from var_core.policy.ways import Way
from var_core.routing.recorder import Recorder
from var_core.routing.scoring import identify_layout
from var_core.routing.sites import find_sites

CACHED = PolicySettings(cache=CacheSettings(CacheLimits(2, 32, 100), 0.0))


@pytest.fixture(scope="module")
def text():
    random = np.random.default_rng(0)
    ids = random.integers(20, size=(6, 40))
    document = np.cumsum(random.random(ids.shape) < 0.05, axis=1) + 10 * np.arange(6)[:, None]
    return Text.of(ids, document, True, 2)


@pytest.fixture(scope="module")
def subject():
    model = build_model("mixtral")
    sites = find_sites(model)
    with Recorder(sites) as recorder, torch.inference_mode():
        model(torch.arange(VOCABULARY)[None])
        layout = identify_layout(sites, recorder.take()).layout
    return Subject(model, sites, layout, {})


@pytest.fixture(scope="module")
def tables(subject):
    """Fitted on other text, in which the token ids from 15 on do not occur."""
    ids = torch.from_numpy(np.random.default_rng(1).integers(15, size=(4, 50)))
    with Recorder(subject.sites) as recorder, torch.inference_mode():
        subject.model(ids)
        batch = recorder.take()
    tokens, everything = [], []
    for layer in range(len(subject.sites)):
        own = (batch.experts[layer].numpy(), batch.weights[layer].double().numpy())
        for keys, parts in ((ids.flatten().numpy(), tokens), (np.zeros(ids.numel(), np.int64), everything)):
            parts.append(fit_entries(ExpertSums.of_decisions(keys, *own, 8), 8, 2, 1.0))
    return assemble(VOCABULARY, 8, tokens, everything)


def test_its_own_decisions_give_the_plain_loss(subject, text):
    plain, oracle = run_plain(subject, text), run_oracle(subject, text)
    assert oracle.scores.predicted.tolist() == plain.scores.predicted.tolist()
    assert oracle.scores.nll_sum == pytest.approx(plain.scores.nll_sum, rel=1e-6)


def test_an_empty_policy_gives_the_plain_loss_to_the_bit(subject, text, tables):
    arm = run_policy(subject, text, tables, PolicySettings())
    assert arm.scores.nll_sum.tolist() == run_plain(subject, text).scores.nll_sum.tolist()
    assert arm.ways.shares.tolist() == [1.0, 0.0, 0.0]


@pytest.mark.parametrize("control", ["global table", "random experts"])
def test_a_control_decides_everything_and_agrees_by_chance(subject, text, tables, control):
    everywhere = all_tokens(tables)
    by_chance = random_experts(everywhere, subject.layout, 0)
    controlled = global_table(everywhere) if control == "global table" else by_chance
    arm = run_policy(subject, text, controlled, PolicySettings())
    assert arm.ways.shares.tolist() == [0.0, 1.0, 0.0]
    # 2 of 8 experts: by chance a quarter of the slots, and one set in 28.
    everything = arm.ways.decisions.sum()
    assert arm.ways.recall_at_k.sum() / everything < 0.45
    assert not np.allclose(arm.scores.nll_sum, run_plain(subject, text).scores.nll_sum, rtol=1e-5)


def test_a_control_at_the_same_coverage_decides_the_same_tokens(subject, text, tables):
    some = replace(tables, usable=tables.present & (torch.arange(tables.present.shape[1]) % 2 == 0))
    policy = run_policy(subject, text, some, PolicySettings())
    for controlled in (global_table(some), random_experts(some, subject.layout, 0)):
        arm = run_policy(subject, text, controlled, PolicySettings())
        assert arm.ways.decisions.tolist() == policy.ways.decisions.tolist()
        fast = int(Way.FAST)
        assert arm.ways.recall_at_k[..., fast].sum() < 0.7 * policy.ways.recall_at_k[..., fast].sum()


def test_ways_are_those_of_each_sequence(subject, text, tables):
    some = replace(tables, usable=tables.present & (torch.arange(tables.present.shape[1]) % 2 == 0))
    together = run_policy(subject, text, some, CACHED)
    assert together.ways.decisions.sum(axis=(1, 2)).tolist() == [40 * len(subject.sites)] * 6
    assert (together.ways.decisions.sum(axis=(0, 1)) > 0).all()
    learned = int(Way.LEARNED)
    assert together.ways.set_agreement[..., learned].tolist() == together.ways.decisions[..., learned].tolist()
    assert (together.ways.recall_at_k >= together.ways.set_agreement - 1e-9).all()
    alone = run_policy(subject, replace(text, batch_sequences=1), some, CACHED)
    assert alone.ways.decisions.tolist() == together.ways.decisions.tolist()
    assert alone.ways.set_agreement.tolist() == together.ways.set_agreement.tolist()


def test_only_scored_tokens_count(subject, text, tables):
    """In sliding windows, the others are context."""
    half = replace(text, scored=np.arange(40) >= np.full((6, 1), 20))
    some = replace(tables, usable=tables.present & (torch.arange(tables.present.shape[1]) % 2 == 0))
    whole, part = run_policy(subject, text, some, CACHED), run_policy(subject, half, some, CACHED)
    assert part.ways.decisions.sum(axis=2).tolist() == [[20] * len(subject.sites)] * 6
    assert (part.ways.decisions <= whole.ways.decisions).all()
    assert (part.scores.predicted <= 20).all() and (part.scores.nll_sum < whole.scores.nll_sum).all()
    first = replace(text, scored=~half.scored)
    rest = run_policy(subject, first, some, CACHED)
    assert (part.scores.nll_sum + rest.scores.nll_sum) == pytest.approx(whole.scores.nll_sum, rel=1e-5)


def test_a_plain_table_covers_every_token(subject, text, tables):
    assert not tables.present[:, 15:20].any()
    arm = run_policy(subject, text, all_tokens(tables), PolicySettings())
    assert arm.ways.shares.tolist() == [0.0, 1.0, 0.0]
