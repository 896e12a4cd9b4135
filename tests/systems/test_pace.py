"""How fast passes are taken to be: of the tokens that are counted, and of what was profiled."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from policy_subject import Subject
from systems_decisions import decisions_of
from var_core.policy.cache import CacheLimits
from var_core.policy.settings import CacheSettings, PolicySettings
from var_core.policy.store import Policy
from var_core.systems.devices import PRESETS
from var_core.systems.on_model import heldout_seconds, predicting_seconds
from var_core.systems.pace import pace_of
from var_core.systems.profiles import PROFILES
from var_core.systems.published import published_shape
from var_core.systems.roofline import one_expert
from var_core.systems.stream import streams_of
from var_core.systems.verdict import profiled_speed

MIXTRAL, DEVICES = published_shape("mixtral-8x7b"), (PRESETS["h100-sxm"], PRESETS["phone-ufs"])


def chosen(tokens, seed):
    return np.random.default_rng(seed).random((tokens, 32, 8)).argsort(axis=2)[:, :, :2]


def test_decoding_after_a_recorded_prompt_has_the_pace_of_decoding():
    document = np.repeat([0, 1], [300, 40])
    domain = np.repeat(["chat:prefill", "chat:decode"], [300, 40])
    own = decisions_of(chosen(340, 0), 8, sequence=document, domain=domain, document=document)
    decode, prefill = streams_of(own, np.zeros(2, np.int64), (1,))
    alone, *_ = streams_of(decisions_of(chosen(40, 1), 8), np.zeros(1, np.int64), (1,))
    found, expected = pace_of(MIXTRAL, DEVICES, decode), pace_of(MIXTRAL, DEVICES, alone)
    for name in ("before", "expert", "after", "load"):
        assert np.allclose(getattr(found, name), getattr(expected, name)), name
    # One token an expert in decoding; in the prompt 300 tokens share eight, two each.
    assert np.allclose(found.expert[0], one_expert(MIXTRAL, DEVICES[0], 1.0))
    assert np.allclose(pace_of(MIXTRAL, DEVICES, prefill).expert[1], one_expert(MIXTRAL, DEVICES[1], 75.0))


def test_predicting_is_timed_by_pass_and_by_token():
    subject = Subject.of("mixtral")
    ids = torch.randint(20, (4, 30), generator=torch.Generator().manual_seed(0))
    tables = subject.table(ids, subject.decisions(ids))
    cache = CacheSettings(CacheLimits(2, 16, 100), 0.0, False)
    policy = Policy(tables, PolicySettings("stored", cache, None), subject.layout, {}, {})
    found = predicting_seconds(policy, ids.numpy(), rounds=20)
    assert found.keys() == {"token_table", "next_layer", "context_cache"}
    assert all(once >= 0 and each >= 0 and once + each > 0 for once, each in found.values())
    without = predicting_seconds(
        Policy(tables, PolicySettings("stored", None, None), subject.layout, {}, {}), ids.numpy(), 5
    )
    assert without.keys() == {"token_table", "next_layer"}


def profile_row(arm, batch, seconds, part="whole", instrument="none", phase="decode"):
    return {
        "arm": arm, "phase": phase, "batch": batch, "context": 8, "instrument": instrument, "part": part,
        "seconds": seconds, "low": seconds * 0.9, "high": seconds * 1.1, "share": 1.0, "device_seconds": None,
        "rounds": 9,
    }  # fmt: skip


def test_the_speed_under_the_policy_is_that_of_whole_passes_nobody_watched():
    rows = [
        profile_row("plain", 1, 2.0), profile_row("policy", 1, 4.0), profile_row("policy_audited", 1, 9.0),
        profile_row("plain", 1, 1.0, instrument="stopwatch"), profile_row("policy", 1, 7.0, phase="prefill"),
        profile_row("plain", 4, 3.0), profile_row("policy", 4, 3.0) | {"low": None},
    ]  # fmt: skip
    found = profiled_speed(pa.Table.from_pylist(rows, PROFILES))
    assert found.keys() == {1}
    assert found[1] == pytest.approx((0.5, 0.5 * 0.9 / 1.1, 0.5 * 1.1 / 0.9))


def test_held_out_passes_are_sums_of_the_plain_models_parts():
    from var_core.config.systems import ProfileConfig

    rows = [
        profile_row(arm, batch, seconds, part, "stopwatch")
        for arm, batch, seconds, part in (
            ("plain", 2, 1.0, "gate"), ("plain", 2, 3.0, "experts"), ("plain", 2, 4.5, "whole"),
            ("plain", 4, 9.0, "experts"), ("policy", 2, 7.0, "experts"),
        )
    ]  # fmt: skip
    assert heldout_seconds(pa.Table.from_pylist(rows, PROFILES), ProfileConfig()) == {("decode", 2): 4.0}
