import time

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, DeepseekV3Config

from moe_models import COMMON, VOCABULARY, build_model
from policy_subject import Subject
from var_core.evaluation.arms import all_tokens
from var_core.policy.audit import AuditMonitor
from var_core.policy.cache import CacheLimits
from var_core.policy.runtime import Observer
from var_core.policy.settings import CacheSettings, PolicySettings
from var_core.policy.shadow import ShadowAudit
from var_core.routing.sites import find_sites
from var_core.systems.markers import Span, Stopwatch, exclusive_seconds
from var_core.systems.names import OTHER
from var_core.systems.ranges import Ranges, find_places

IDS = torch.randint(12, (2, 16), generator=torch.Generator().manual_seed(3))


class Log:
    """Keeps the path of parts that each part begins in."""

    def __init__(self):
        self.paths, self._open = [], []

    def enter(self, part):
        self._open.append(part)
        self.paths.append("/".join(self._open))

    def leave(self):
        self._open.pop()

    @property
    def closed(self):
        return not self._open


def logged(subject, policy=None, ids=IDS):
    log = Log()
    with Ranges(subject.model, subject.sites, log, policy):
        if policy is None:
            logits = subject.logits(ids)
        else:
            with policy:
                logits = subject.logits(ids)
    assert log.closed
    return log.paths, logits


@pytest.fixture(scope="module")
def mixtral():
    return Subject.of("mixtral")


@pytest.fixture(scope="module")
def tables(mixtral):
    return all_tokens(mixtral.table(IDS, mixtral.decisions(IDS)))


def test_the_parts_of_a_plain_model_run_in_their_order(mixtral):
    before = mixtral.logits(IDS)
    paths, logits = logged(mixtral)
    layer = ["attention", "dispatch", "dispatch/gate", "dispatch/experts"]
    assert paths == [*layer * 3, "lm_head"]
    assert torch.equal(logits, before)


def test_shared_experts_and_their_gate_are_parts_of_the_block():
    paths, _ = logged(Subject.of("qwen2_moe"))
    assert sorted(set(paths)) == [
        "attention", "dispatch", "dispatch/experts", "dispatch/gate", "dispatch/shared_experts", "lm_head",
    ]  # fmt: skip
    assert paths.count("dispatch/shared_experts") == 2 * 3


def test_layers_without_experts_are_dense():
    config = DeepseekV3Config(
        **COMMON, first_k_dense_replace=1, n_routed_experts=8, num_experts_per_tok=2, n_shared_experts=1, n_group=2,
        topk_group=1, moe_intermediate_size=24, q_lora_rank=16, kv_lora_rank=8, qk_rope_head_dim=4, v_head_dim=8,
        qk_nope_head_dim=8,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config).eval()
    places = [place.part for place in find_places(model, find_sites(model))]
    assert {part: places.count(part) for part in set(places)} | {"top_k": 0} == {
        "attention": 3, "dense": 1, "dispatch": 2, "experts": 2, "gate": 2, "shared_experts": 2, "lm_head": 1,
        "top_k": 0,
    }  # fmt: skip


@pytest.mark.parametrize("family", ["mixtral", "olmoe", "qwen2_moe", "qwen3_moe"])
def test_a_model_is_afterwards_what_it_was(family):
    model = build_model(family)
    own = {path: vars(module).keys() for path, module in model.named_modules()}
    with Ranges(model, find_sites(model), Log()):
        assert any("forward" in vars(module) for module in model.modules())
    assert {path: vars(module).keys() for path, module in model.named_modules()} == own
    assert not any("forward" in vars(module) for module in model.modules())


def test_a_forward_that_something_else_has_replaced_is_put_back(mixtral):
    router = mixtral.sites[0].router
    own = router.forward
    router.forward = own
    try:
        logged(mixtral)
        assert vars(router)["forward"] == own
    finally:
        del router.forward


def test_parts_end_when_the_model_fails(mixtral):
    log = Log()
    with Ranges(mixtral.model, mixtral.sites, log), pytest.raises(IndexError):
        mixtral.model(torch.tensor([[VOCABULARY + 1]]))
    with Ranges(mixtral.model, mixtral.sites, log), torch.inference_mode():
        handle = mixtral.sites[1].experts.act_fn.register_forward_pre_hook(lambda *_: 1 / 0)
        try:
            with pytest.raises(ZeroDivisionError):
                mixtral.model(IDS)
        finally:
            handle.remove()
    assert log.closed and log.paths[-1] == "dispatch/experts"


def test_a_policy_that_decides_everything_leaves_no_gate(mixtral, tables):
    policy = mixtral.policy(tables)
    logged(mixtral, policy)  # one token's output shows once what routers return
    paths, logits = logged(mixtral, policy)
    assert "policy_decision" in paths and "dispatch/policy_decision" in paths
    assert not any(path.endswith("gate") for path in paths)
    with policy:
        assert torch.equal(mixtral.logits(IDS), logits)


def test_a_policy_that_decides_nothing_leaves_the_gate_within_the_decision(mixtral):
    policy = mixtral.policy(mixtral.table(IDS, mixtral.decisions(IDS)))
    paths, logits = logged(mixtral, policy)
    assert paths.count("dispatch/policy_decision/gate") == 3 and "dispatch/gate" not in paths
    assert torch.equal(logits, mixtral.logits(IDS))


def test_cache_and_audit_lie_within_the_decision(mixtral, tables):
    settings = PolicySettings("stored", CacheSettings(CacheLimits(2, 64, 64), 0.0))
    audit = ShadowAudit(AuditMonitor(np.zeros(3), 0.05), 1.0)
    policy = mixtral.policy(tables, settings, observers=[audit])
    paths, _ = logged(mixtral, policy)
    assert paths[:2] == ["policy_decision", "policy_decision/audit"]
    assert "policy_decision/cache" in paths
    for name in ("audit", "cache"):
        assert f"dispatch/policy_decision/{name}" in paths
    # The audit asks the router about everything: once a layer.
    assert paths.count("dispatch/policy_decision/gate") == 3
    for part in ("begins", "asks", "decided", "passed"):
        assert part not in vars(audit)
    assert {"_begin", "_experts_hook"}.isdisjoint(vars(policy))
    assert {"look", "begin", "remember"}.isdisjoint(vars(policy._decider))
    assert "look_up" not in vars(policy._decider._cache)
    assert not any("_forward" in vars(router) for router in policy._routers)


def test_ranges_see_a_cache_that_was_there_before(mixtral, tables):
    settings = PolicySettings("stored", CacheSettings(CacheLimits(2, 64, 64), 0.0))
    policy = mixtral.policy(tables, settings)
    for _ in range(2):
        paths, _ = logged(mixtral, policy)
        assert paths.count("policy_decision/cache") == 1


def test_the_policy_is_entered_after_its_ranges(mixtral, tables):
    policy = mixtral.policy(tables)
    with policy, pytest.raises(ValueError, match="ranges first"), Ranges(mixtral.model, mixtral.sites, Log(), policy):
        pass


class Slow(Observer):
    def decided(self, record):
        time.sleep(0.01)


def test_slow_observers_are_the_audits_time(mixtral, tables):
    stopwatch, policy = Stopwatch(torch.device("cpu")), mixtral.policy(tables, observers=[Slow()])
    with Ranges(mixtral.model, mixtral.sites, stopwatch, policy), policy:
        mixtral.logits(IDS)
        stopwatch.start()
        mixtral.logits(IDS)
        seconds = stopwatch.stop()
    assert seconds["audit"] >= 0.03
    assert all(each < seconds["audit"] for part, each in seconds.items() if part != "audit")


def test_exclusive_times_of_a_stopwatch_make_the_whole():
    stopwatch = Stopwatch(torch.device("cpu"))
    stopwatch.enter("before the start")
    stopwatch.leave()
    begin = time.perf_counter()
    stopwatch.start()
    stopwatch.enter("gate")
    time.sleep(0.02)
    stopwatch.enter("experts")
    time.sleep(0.04)
    stopwatch.leave()
    stopwatch.leave()
    time.sleep(0.01)
    seconds = stopwatch.stop()
    whole = time.perf_counter() - begin
    assert set(seconds) == {"gate", "experts", OTHER}
    assert sum(seconds.values()) == pytest.approx(whole, abs=2e-3)
    assert seconds["gate"] >= 0.02 and seconds["experts"] >= 0.04 and seconds[OTHER] >= 0.01
    # With what lies within it, the gate would have the more.
    assert seconds["gate"] < seconds["experts"]


def test_exclusive_times_of_spans_and_the_kernels_that_they_launched():
    spans = [
        Span("prefill", 0, 100), Span("gate", 10, 30), Span("experts", 30, 60), Span("cache", 40, 50),
        Span("decode", 200, 300), Span("gate", 200, 210),
    ]  # fmt: skip
    kernels = [(45, 7), (55, 5), (5, 3), (150, 1000), (205, 2), (-5, 1000), (301, 1000)]
    host, device = exclusive_seconds(reversed(spans), kernels)
    assert {name: {part: round(1e9 * each) for part, each in own.items()} for name, own in host.items()} == {
        "prefill": {"other": 50, "gate": 20, "experts": 20, "cache": 10}, "decode": {"other": 90, "gate": 10},
    }  # fmt: skip
    assert {name: {part: round(1e9 * each) for part, each in own.items()} for name, own in device.items()} == {
        "prefill": {"cache": 7, "experts": 5, "other": 3}, "decode": {"gate": 2},
    }  # fmt: skip
