"""Caches of every size on whole traces: the table, its controls, and the published replay of a real recording."""

import gzip
import os
import re
from pathlib import Path

import numpy as np
import pytest

from systems_decisions import decisions_of, random_decisions
from var_core.config.systems import CachesConfig
from var_core.errors import VarError
from var_core.policy.cache import CacheLimits
from var_core.systems.accesses import accesses_of, as_decode
from var_core.systems.devices import PRESETS
from var_core.systems.predictions import Knowledge, fit_next_layer
from var_core.systems.published import published_shape
from var_core.systems.shape import shape_of_recorded
from var_core.systems.simulate import CACHE_SIMULATIONS, Setting, simulate
from var_core.systems.stream import clusters_of, streams_of
from var_core.traces.importers.recording import Shape
from var_core.traces.importers.route_csv import read_route_csv

DATA = Path(os.environ.get("VAR_SHARED_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
QWEN3 = DATA / "bigmoeonedge_qwen3_30b.route.csv.gz"


def setting(layers, width, k, other=None, sizes=None, devices=(), shape=None):
    return Setting(
        sizes,
        None if other is None else accesses_of(other, *as_decode(other)).counts(),
        Knowledge(next_layer=None if other is None else fit_next_layer(other)),
        shape or shape_of_recorded("test", layers, width, k),
        devices,
    )


def rows_of(table, **wanted):
    return [row for row in table.to_pylist() if all(row[name] == value for name, value in wanted.items())]


def test_rows_of_a_trace():
    own, other = random_decisions(30, sequences=80), random_decisions(60, sequences=20, seed=5)
    groups = np.arange(80) // 2
    table = simulate(own, groups, 2, setting(3, 6, 2, other), CachesConfig(batches=(1, 4)))
    assert table.schema == CACHE_SIMULATIONS
    rows = table.to_pylist()
    assert {row["policy"] for row in rows} == {
        "lru", "lfu", "fifo", "static", "belady", "previous_token", "next_layer", "oracle", "random",
    }  # fmt: skip
    for row in rows:
        assert row["hits"] + row["loads"] == row["accesses"]
        assert row["device"] is None and row["moved_bytes"] is None
        # A batch joins the clusters of its sequences, and then there are too few.
        assert (row["hit_rate_low"] is None) == (row["batch"] == 4)
        if row["batch"] == 1:
            assert row["hit_rate_low"] <= row["hit_rate"] <= row["hit_rate_high"]
    for least in rows_of(table, policy="belady"):
        cache = {name: least[name] for name in ("phase", "batch", "start", "sharing", "experts_a_layer")}
        same = rows_of(table, **cache)
        assert all(row["loads_an_access"] >= least["loads_an_access"] for row in same)
    # Caches of all experts load each once; the smallest hold next to nothing of random routing.
    whole = rows_of(table, policy="lru", start="warm", experts_a_layer=6.0, phase="decode", batch=1, sharing="shared")
    assert whole[0]["loads"] == 18
    smallest = rows_of(table, policy="lru", start="warm", experts_a_layer=2.0, phase="decode", batch=1)
    assert all(row["hit_rate"] == pytest.approx(2 / 6, abs=0.05) for row in smallest)


@pytest.mark.parametrize("layers", [1, 2])
def test_a_cache_that_is_named_twice_is_replayed_once(layers):
    sizes = np.full(layers, 2**19, np.int64)
    config = CachesConfig(policies=("lru",), batches=(1,), sizes_mib=(layers * 3 / 2,))
    known = setting(layers, 6, 2, sizes=sizes)
    table = simulate(random_decisions(12, layers=layers, sequences=12), np.arange(12), 2, known, config)
    keys = [tuple(row[name] for name in ("phase", "start", "sharing", "capacity_share")) for row in table.to_pylist()]
    assert len(set(keys)) == len(keys) == 2 * 2 * 5 * layers


def test_times_are_those_of_the_devices():
    shape, devices = published_shape("mixtral-8x7b"), (PRESETS["h100-sxm"], PRESETS["phone-ufs"])
    own = random_decisions(12, layers=32, width=8, k=2, sequences=12)
    sizes = np.array([shape.expert_bytes(layer) for layer in range(32)], np.int64)
    known = setting(32, 8, 2, sizes=sizes, devices=devices, shape=shape)
    config = CachesConfig(policies=("lru", "oracle", "belady"), batches=(1,), most_sizes=2)
    table = simulate(own, np.arange(12), 2, known, config)
    (h100,) = rows_of(table, policy="lru", device="h100-sxm", phase="decode", start="warm", sharing="shared",
                      experts_a_layer=2.0)  # fmt: skip
    loading = h100["loads"] * (sizes[0] / 64e9 + 10e-6)
    assert h100["stall_seconds"] == pytest.approx(loading)
    assert h100["moved_bytes"] == h100["loads"] * sizes[0]
    assert h100["speed_up"] == 1
    (oracle,) = rows_of(table, policy="oracle", device="h100-sxm", phase="decode", start="warm", sharing="shared",
                        experts_a_layer=2.0)  # fmt: skip
    assert oracle["hit_rate"] == 1
    # Loads take 5.5 ms each, and an expert 0.1 ms: nearly all of each load is waited for all the same.
    assert 1 < oracle["speed_up"] < 1.1
    (phone,) = rows_of(table, policy="lru", device="phone-ufs", phase="decode", start="warm", sharing="shared",
                       experts_a_layer=2.0)  # fmt: skip
    assert phone["seconds"] > 10 * h100["seconds"]


def test_batches_need_more_experts_than_one_sequence():
    own = random_decisions(30, sequences=8)
    streams = {(each.phase, each.batch): each for each in streams_of(own, np.arange(8), (1, 4))}
    assert set(streams) == {("decode", 1), ("decode", 4), ("prefill", 1)}
    assert streams["decode", 1].accesses.tokens.tolist() == [1] * 240
    assert streams["decode", 4].accesses.tokens.tolist() == [4] * 60
    assert streams["prefill", 1].accesses.tokens.tolist() == [30] * 8
    mean = {key: len(each.accesses.experts) / (each.accesses.passes * 3) for key, each in streams.items()}
    assert mean["decode", 1] == 2
    assert 3 < mean["decode", 4] < 6
    assert mean["prefill", 1] > 5.9


def test_what_is_predicted_does_not_depend_on_the_batch():
    """Of a batch, passes have the tokens of several sequences side by side; predictors follow each sequence."""
    ids = np.tile(np.arange(10), 8)
    experts = np.stack([(ids[:, None] + np.arange(2) + layer) % 6 for layer in range(2)], axis=1)
    own = decisions_of(experts, 6, np.repeat(np.arange(8), 10), ids)
    known = Setting(None, None, Knowledge(cache=CacheLimits(2, 50, 100)), shape_of_recorded("t", 2, 6, 2), ())
    config = CachesConfig(policies=("previous_token", "context_cache"), batches=(1, 4), most_sizes=2)
    table = simulate(own, np.arange(8), 2, known, config)
    for policy in ("previous_token", "context_cache"):
        found = {row["batch"]: (row["recall"], row["precision"]) for row in rows_of(table, policy=policy)}
        assert found[1] == found[4], policy
    (row, *_) = rows_of(table, policy="previous_token", batch=1)
    assert row["recall"] == pytest.approx(0.45)  # one of two experts, and nothing for the first of ten tokens
    assert row["access_recall"] == pytest.approx(0.45) and row["predicted_an_access"] == pytest.approx(0.9)


def test_a_prompt_is_not_predicted_from_itself():
    """A control: on random routing the token before says nothing, in recorded prompts either."""
    random = np.random.default_rng(0)
    experts = random.random((400, 2, 12)).argsort(axis=2)[:, :, :2]
    document = np.repeat([0, 1], [200, 200])
    domain = np.repeat(["chat:prefill", "chat:decode"], 200)
    own = decisions_of(experts, 12, sequence=document, domain=domain, document=document)
    table = simulate(own, np.zeros(2, np.int64), 2, setting(2, 12, 2), CachesConfig(most_sizes=4))
    assert not rows_of(table, policy="previous_token", phase="prefill")
    for row in rows_of(table, policy="previous_token", phase="decode"):
        assert row["recall"] == pytest.approx(2 / 12, abs=0.05)
        (lru,) = rows_of(table, policy="lru", **{name: row[name] for name in
                         ("phase", "start", "sharing", "experts_a_layer")})  # fmt: skip
        assert row["hit_rate"] == pytest.approx(lru["hit_rate"], abs=0.02)


def test_recorded_phases_are_replayed_in_their_order():
    """Two conversations: what is decoded goes on from its own prompt, also where the cache is cold."""
    experts = [[[0, 1]]] * 3 + [[[0, 1]]] * 2 + [[[2, 3]]] * 2 + [[[2, 3]]]
    document = [0, 0, 0, 1, 1, 2, 2, 3]
    domain = ["chat:prefill"] * 3 + ["chat:decode"] * 2 + ["chat:prefill"] * 2 + ["chat:decode"]
    own = decisions_of(experts, 4, sequence=document, domain=domain, document=document)
    decode, prefill = streams_of(own, np.array([0, 0, 1, 1]), (1, 8))
    assert (decode.phase, prefill.phase, decode.recorded) == ("decode", "prefill", True)
    assert decode.accesses.tokens.tolist() == [3, 1, 1, 2, 1]
    assert decode.accesses.starts.tolist() == [True, False, False, True, False]
    assert decode.counted.tolist() == [False, True, False, True]
    table = simulate(own, np.array([0, 0, 1, 1]), 2, setting(1, 4, 2), CachesConfig(policies=("lru",)))
    for row in rows_of(table, experts_a_layer=2.0):
        assert row["hit_rate"] == (1.0 if row["phase"] == "decode" else 0.0)


def test_clusters_hold_what_shares_documents():
    # Units 0 and 1 share group 5, units 1 and 2 share group 6; unit 3 is alone.
    assert clusters_of(np.array([0, 1, 1, 2, 3]), np.array([5, 5, 6, 6, 7])).tolist() == [0, 0, 0, 1]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"policies": ("token_table",)}, "policies: token_table needs token ids"),
        ({"policies": ("static",)}, "policies: static needs counts of experts' uses in other text"),
        ({"sizes_mib": (4.0,)}, "the bytes of an expert are not known; set the model's expert_bytes"),
    ],
)
def test_what_a_trace_lacks_is_refused_in_one_line(config, message):
    own = decisions_of([[[0, 1]], [[1, 2]]], 4)
    with pytest.raises(VarError, match=message) as error:
        simulate(own, np.zeros(1, np.int64), 2, setting(1, 4, 2), CachesConfig(**config))
    assert "\n" not in str(error.value)


def test_a_cache_smaller_than_k_is_refused():
    own = decisions_of([[[0, 1]], [[1, 2]]], 4)
    known = setting(1, 4, 2, sizes=np.array([2**20]))
    with pytest.raises(VarError, match="smaller than the 2 experts of one token"):
        simulate(own, np.zeros(1, np.int64), 2, known, CachesConfig(sizes_mib=(1.5,)))


@pytest.fixture(scope="module")
def qwen3():
    """The recorded decisions of Qwen3-30B-A3B, and the bytes of an expert of each layer, from the file's header."""
    if not QWEN3.exists():
        pytest.skip(f"recorded routing is not there: {QWEN3}")
    shape = Shape(128, 6, 48, None, "qwen3")
    parts = list(read_route_csv([(QWEN3, "log")], "chat", shape))
    sizes = np.zeros(48, np.int64)
    with gzip.open(QWEN3, "rt") as lines:
        for line in lines:
            found = re.match(r"# layer=(\d+) expert_bytes=(\d+)", line)
            if found:
                sizes[int(found[1])] = int(found[2])
            elif not line.startswith("#"):
                break
    experts = np.concatenate([part.experts for part in parts])
    number = np.repeat(np.arange(len(parts)), [len(part.experts) for part in parts])
    domain = np.repeat([part.domain for part in parts], [len(part.experts) for part in parts])
    return decisions_of(experts, 128, sequence=number, domain=domain), sizes


def test_published_replay_values_come_out(qwen3):
    """Its authors: at 4,000 MiB LRU finds 80.3 % of the experts in decoding, Belady's optimum 92.7 %."""
    own, sizes = qwen3
    config = CachesConfig(policies=("lru", "belady"), sizes_mib=(4000.0,), most_sizes=2)
    table = simulate(own, np.zeros(2, np.int64), 6, setting(48, 128, 6, sizes=sizes), config)
    rate = {row["policy"]: row["hit_rate"]
            for row in rows_of(table, phase="decode", start="warm", capacity_bytes=4000 * 2**20)}  # fmt: skip
    assert round(rate["lru"], 3) == 0.803
    assert round(rate["belady"], 3) == 0.927
    # What their engine itself found resident while it ran: 29,597 of 36,864.
    assert rate["lru"] == pytest.approx(29_597 / 36_864, abs=1e-4)


def test_prefetching_on_a_real_recording_never_beats_belady_in_bytes(qwen3):
    own, sizes = qwen3
    config = CachesConfig(policies=("lru", "belady", "previous_token", "oracle", "random"), most_sizes=4)
    table = simulate(own, np.zeros(2, np.int64), 6, setting(48, 128, 6, sizes=np.full(48, sizes[0])), config)
    loads: dict[tuple, int] = {}
    for row in table.to_pylist():
        key = tuple(row[name] for name in ("phase", "policy", "start", "sharing", "experts_a_layer"))
        loads[key] = row["loads"] + row["prefetched"]
    for phase, policy, *cache in loads:
        if phase == "decode":
            # What a prompt leaves behind is found in decoding, so that both count together; in prompts all are LRU.
            own, least = (
                loads["decode", name, *cache] + loads["prefill", at_first, *cache]
                for name, at_first in ((policy, "belady" if policy == "belady" else "lru"), ("belady", "belady"))
            )
            assert own >= least
    assert {row["hit_rate"] for row in rows_of(table, policy="oracle", phase="decode")} == {1.0}
