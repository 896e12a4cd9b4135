import gzip
import json
import time
from contextlib import ExitStack

import numpy as np
import pytest
import torch

from policy_subject import Subject
from var_core.errors import VarError
from var_core.evaluation.arms import all_tokens
from var_core.policy.audit import AuditMonitor
from var_core.policy.shadow import ShadowAudit
from var_core.systems.names import DECODE, PHASES, PREFILL
from var_core.systems.profiles import (
    AUDITED,
    BARE,
    PLAIN,
    POLICY,
    PROFILER,
    PROFILES,
    STOPWATCH,
    WHOLE,
    Plan,
    median_interval,
    overheads,
)
from var_core.systems.profiling import Profiling, profile

TEXT = np.random.default_rng(0).integers(12, size=(6, 20))
PLAN = Plan(batches=(1, 3), context=12, steps=3, rounds=6, profiler_rounds=2)
PAUSE = 0.004


@pytest.fixture(scope="module")
def subject():
    return Subject.of("mixtral")


@pytest.fixture(scope="module")
def arms(subject):
    ids = torch.from_numpy(TEXT)
    tables = all_tokens(subject.table(ids, subject.decisions(ids)))
    audit = ShadowAudit(AuditMonitor(np.zeros(3), 0.05), 1.0)
    return {PLAIN: None, POLICY: subject.policy(tables), AUDITED: subject.policy(tables, observers=[audit])}


@pytest.fixture(scope="module")
def profiled(subject, arms, tmp_path_factory):
    """Each layer's experts wait a little; rows by what they are of, and the trace."""
    trace, ticks = tmp_path_factory.mktemp("profile") / "trace.json.gz", []
    with ExitStack() as stack:
        for site in subject.sites:
            own = site.experts.act_fn.register_forward_pre_hook(lambda *_: time.sleep(PAUSE))
            stack.callback(own.remove)
        table = profile(subject.model, subject.sites, TEXT, arms, PLAN, trace, ticks.append)
    assert table.schema == PROFILES and len(ticks) == PLAN.runs(3)
    names = ("arm", "phase", "batch", "instrument", "part")
    rows = {tuple(row[name] for name in names): row for row in table.to_pylist()}
    assert len(rows) == len(table)
    return table, rows, trace


def parts_of(rows, *place):
    return {key[-1]: row for key, row in rows.items() if key[:-1] == place and key[-1] != WHOLE}


def test_every_arm_phase_batch_and_instrument_is_there(profiled):
    _, rows, _ = profiled
    wholes = {key[:-1]: row["rounds"] for key, row in rows.items() if key[-1] == WHOLE}
    assert wholes == {
        (arm, phase, batch, instrument): 2 if instrument == PROFILER else 6
        for arm in (PLAIN, POLICY, AUDITED)
        for phase in PHASES
        for batch in (1, 3)
        for instrument in (BARE, STOPWATCH, PROFILER)
    }
    assert {row["context"] for row in rows.values()} == {12}
    assert not parts_of(rows, PLAIN, DECODE, 1, BARE)


@pytest.mark.parametrize("instrument", [STOPWATCH, PROFILER])
def test_a_slow_part_is_found_and_no_other_is_slow(profiled, instrument):
    _, rows, _ = profiled
    for phase in PHASES:
        seconds = {part: row["seconds"] for part, row in parts_of(rows, PLAIN, phase, 3, instrument).items()}
        assert set(seconds) == {"attention", "dispatch", "gate", "experts", "other", "lm_head"}
        assert seconds["experts"] > 3 * PAUSE
        assert all(each < seconds["experts"] / 2 for part, each in seconds.items() if part != "experts")


@pytest.mark.parametrize("instrument", [STOPWATCH, PROFILER])
def test_shares_of_all_parts_make_the_whole(profiled, instrument):
    _, rows, _ = profiled
    for arm in (PLAIN, POLICY, AUDITED):
        for phase in PHASES:
            shares = [row["share"] for row in parts_of(rows, arm, phase, 1, instrument).values()]
            assert sum(shares) == pytest.approx(1)


def test_parts_of_each_round_make_its_wall_clock(subject, arms):
    profiling = Profiling(subject.model, subject.sites, arms)
    for arm in arms:
        for instrument in (STOPWATCH, PROFILER):
            profiling.run(arm, instrument, torch.from_numpy(TEXT[:2]), 12)
            passes = profiling.run(arm, instrument, torch.from_numpy(TEXT[:2]), 12)
            for phase in PHASES:
                whole, parts = passes[phase].whole, sum(passes[phase].parts.values())
                assert 0.85 * whole < parts <= whole * (1 + 1e-9)


def test_parts_of_the_policy_are_under_the_policy_only(profiled):
    _, rows, _ = profiled
    own = {arm: set(parts_of(rows, arm, DECODE, 3, STOPWATCH)) for arm in (PLAIN, POLICY, AUDITED)}
    assert own[POLICY] - own[PLAIN] == {"policy_decision"}
    assert own[AUDITED] - own[PLAIN] == {"policy_decision", "audit"}
    # Its tables decide everything: the router is asked by the audit alone, but for one token of one pass.
    gate = {arm: rows[arm, DECODE, 3, STOPWATCH, "gate"]["seconds"] for arm in (PLAIN, AUDITED)}
    assert gate[AUDITED] > gate[PLAIN] / 4
    assert (POLICY, DECODE, 3, STOPWATCH, "gate") not in rows


def test_a_round_is_a_prefill_and_tokens_behind_it_with_a_real_cache(subject, arms):
    seen = []

    def keep(module, arguments, keywords):
        past = keywords["past_key_values"]
        assert keywords["logits_to_keep"] == 1
        seen.append((tuple(keywords["input_ids"].shape), 0 if past is None else past.get_seq_length()))

    handle = subject.model.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        policy = arms[POLICY]
        before = policy.counts.by_way.sum()
        Profiling(subject.model, subject.sites, arms).run(POLICY, BARE, torch.from_numpy(TEXT[:2, :15]), 12)
        assert policy.counts.by_way.sum() - before == 3 * 2 * 15
    finally:
        handle.remove()
    assert seen == [((2, 12), 0), ((2, 1), 12), ((2, 1), 13), ((2, 1), 14)]


def test_seconds_of_decoding_are_of_one_token_not_of_all_three(profiled):
    _, rows, _ = profiled
    decode, prefill = (rows[PLAIN, phase, 3, BARE, WHOLE]["seconds"] for phase in (DECODE, PREFILL))
    # Waiting makes most of both.
    assert decode < 2 * prefill


def test_what_instruments_cost_is_measured(profiled):
    table, rows, _ = profiled
    found = overheads(table)
    assert {name: len(each) for name, each in found.items()} == {STOPWATCH: 12, PROFILER: 12}
    place = (AUDITED, PREFILL, 3)
    watched, bare = rows[*place, PROFILER, WHOLE]["seconds"], rows[*place, BARE, WHOLE]["seconds"]
    assert watched / bare - 1 in found[PROFILER]


def test_the_trace_shows_every_arm_and_part(profiled):
    _, rows, trace = profiled
    with gzip.open(trace) as stream:
        events = json.load(stream)["traceEvents"]
    names = {event["name"] for event in events}
    parts = {key[-1] for key in rows} - {WHOLE, "other"}
    assert {f"VAR {name}" for name in (*parts, *PHASES, "arm plain", "arm policy", "arm policy_audited")} <= names


def test_the_profiler_watches_the_ends_of_the_batch_sizes_only():
    plan = Plan(batches=(1, 2, 4), rounds=3, profiler_rounds=2, warmup=1)
    watched = [(n, batch) for n in range(-1, 3) for batch in plan.batches if PROFILER in plan.instruments(n, batch)]
    assert watched == [(-1, 1), (-1, 4), (0, 1), (0, 4), (1, 1), (1, 4)]
    assert plan.runs(2) == 2 * (4 * 3 * 2 + 6)


def test_intervals_are_those_of_order_statistics():
    values = np.arange(9)[::-1] * 1.0
    assert median_interval(values, 0.95) == (1, 7)
    assert median_interval(values, 0.99) == (0, 8)
    assert median_interval(values[:6], 0.95) == (3, 8)
    assert median_interval(values[:5], 0.95) is None


def test_the_interval_covers_the_median_as_often_as_stated():
    random = np.random.default_rng(0)
    ends = np.array([median_interval(random.exponential(size=12), 0.9) for _ in range(2000)])
    covered = ((ends[:, 0] <= np.log(2)) & (np.log(2) <= ends[:, 1])).mean()
    assert 0.9 <= covered < 0.97


def test_with_few_rounds_there_is_no_interval(profiled):
    _, rows, _ = profiled
    assert rows[PLAIN, DECODE, 1, PROFILER, "gate"]["low"] is None
    row = rows[PLAIN, DECODE, 1, STOPWATCH, "gate"]
    assert row["low"] <= row["seconds"] <= row["high"]


def test_too_little_text_is_said(subject):
    with pytest.raises(VarError, match="6 sequences of 20 tokens are too little text for batches of 7"):
        profile(subject.model, subject.sites, TEXT, {PLAIN: None}, Plan(batches=(1, 7), context=12, steps=3))
    with pytest.raises(VarError, match="lower batches, context or steps"):
        profile(subject.model, subject.sites, TEXT, {PLAIN: None}, Plan(batches=(1,), context=18, steps=3))


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"batches": ()}, "profile.batches: 0"), ({"batches": (4, 0)}, "profile.batches: 0"),
        ({"rounds": 0}, "profile.rounds: 0"), ({"warmup": -1}, "profile.warmup: -1"),
        ({"steps": 0}, "profile.steps"), ({"confidence": 95}, "profile.confidence: 95"),
    ],
)  # fmt: skip
def test_a_plan_that_cannot_be_followed_is_refused(bad, said):
    with pytest.raises(VarError, match=said):
        Plan(**bad)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_kernels_are_timed_too():
    subject = Subject.of("mixtral")
    subject.model.cuda()
    rows = profile(subject.model, subject.sites, TEXT, {PLAIN: None}, PLAN).to_pylist()
    busy = {row["part"]: row["device_seconds"] for row in rows if row["instrument"] == PROFILER}
    assert all(busy[part] > 0 for part in ("attention", "gate", "experts", "lm_head"))
    for row in rows:
        if row["instrument"] == STOPWATCH and row["part"] == WHOLE:
            own = [each for each in rows if each["part"] != WHOLE and each["instrument"] == STOPWATCH]
            own = [each["seconds"] for each in own if (each["phase"], each["batch"]) == (row["phase"], row["batch"])]
            assert sum(own) == pytest.approx(row["seconds"], rel=0.2)
