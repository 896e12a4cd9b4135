"""Arms side by side: the same numbers, the counts of their phases, and how fast they were."""

import pyarrow.compute as pc
import pytest
import torch

from moe_models import VOCABULARY
from policy_subject import Subject
from residency_reference import replay_residency
from var_core.errors import VarError
from var_core.parquet import read_provenance, read_table
from var_core.systems.offload.arms import Arm, Text
from var_core.systems.offload.prefetch import RandomExperts
from var_core.systems.offload.run import OFFLOADED, OffloadRunner, write_offloaded
from var_core.systems.offload.store import MappedStore, PinnedStore, write_experts
from var_core.systems.offload.transfer import Link

IDS = torch.randint(VOCABULARY, (5, 12), generator=torch.Generator().manual_seed(4))
ARMS = (
    Arm("resident"),
    Arm("lru", 9),
    Arm("lru per layer", 3, shared=False),
    Arm("random", 9, predictor=lambda: RandomExperts(3, 8, 2)),
)


@pytest.fixture(scope="module")
def subject() -> Subject:
    return Subject.of("mixtral")


@pytest.fixture(scope="module")
def store(subject, tmp_path_factory) -> MappedStore:
    folder = tmp_path_factory.mktemp("experts")
    write_experts(subject.sites, folder)
    return MappedStore(folder, 3)


def rows_of(run) -> dict[tuple[str, str], dict]:
    return {(row["arm"], row["phase"]): row for row in run.table.to_pylist()}


def runner(subject, store, text, **more) -> OffloadRunner:
    return OffloadRunner(subject.model, subject.sites, store, subject.layout.top_k, text, **more)


def test_all_arms_compute_the_same_and_count_what_their_cache_does(subject, store):
    run = runner(subject, store, Text(IDS, batch=2, prompt=4)).run(ARMS, rounds=3)
    rows = rows_of(run)
    assert run.table.schema == OFFLOADED
    assert set(rows) == {(arm.name, phase) for arm in ARMS for phase in ("prefill", "decode")}
    assert all(row["identical"] for row in rows.values())
    for row in rows.values():
        # Five sequences in three batches: 4 tokens at once, then 8 one by one.
        assert (row["steps"], row["tokens"]) == ((3, 20) if row["phase"] == "prefill" else (24, 40))
        assert row["tokens_per_second_low"] <= row["tokens_per_second"] <= row["tokens_per_second_high"]
        assert row["tokens_per_second"] == pytest.approx(row["tokens"] / row["seconds"])
        assert row["rounds"] == 3
    assert rows["resident", "decode"]["accesses"] is None
    for arm in ARMS[1:3]:
        needed = [[set(layer) for layer in step] for step in run.needed[arm.name]]
        assert len(needed) == 27
        expected = replay_residency(needed, [[set()] * 3] * 27, arm.capacity, arm.shared)
        for name, number in expected.items():
            assert sum(rows[arm.name, phase][name] for phase in ("prefill", "decode")) == number
        expert = sum(part.bytes for part in store.layout(0).values())
        for phase in ("prefill", "decode"):
            row = rows[arm.name, phase]
            assert row["bytes_moved"] == row["demand_loads"] * expert
            assert row["hit_rate"] == row["hits"] / row["accesses"]
            assert 0 < row["stall_seconds"] < row["seconds"]
    both = [rows["random", phase] for phase in ("prefill", "decode")]
    assert both[1]["prefetch_loads"] > 0
    used_at_most = sum(row["prefetch_loads"] - row["useless"] for row in both)
    assert 0 <= used_at_most <= sum(row["hits"] for row in both)
    assert run.needed["lru"] == run.needed["random"]


def test_what_is_generated_is_what_the_model_generates(subject, store):
    text = Text(IDS[:1, :3], prompt=3, generate=6)
    run = runner(subject, store, text).run(ARMS[:2], rounds=1)
    rows = rows_of(run)
    assert (rows["lru", "decode"]["steps"], rows["lru", "decode"]["identical"]) == (6, True)
    # The same experts are needed where the tokens that greedy generation chooses are fed one by one.
    written = subject.model.generate(IDS[:1, :3], max_new_tokens=6, do_sample=False)
    fed = runner(subject, store, Text(written, prompt=3)).run(ARMS[1:2], rounds=1)
    assert fed.needed["lru"] == run.needed["lru"]


def test_a_prompt_alone_is_prefilled_only(subject, store):
    run = runner(subject, store, Text(IDS, batch=5, prompt=12)).run((ARMS[3],), rounds=1)
    (row,) = run.table.to_pylist()
    assert (row["phase"], row["steps"], row["tokens"]) == ("prefill", 1, 60)
    assert row["identical"] is None  # there is nothing to compare with
    assert row["useless"] <= row["prefetch_loads"]


def test_with_other_weights_in_the_store_the_arms_are_not_identical(subject, store, tmp_path):
    other = Subject.of_model(type(subject.model)(subject.model.config).eval().requires_grad_(False))
    write_experts(other.sites, tmp_path)
    run = runner(subject, MappedStore(tmp_path, 3), Text(IDS[:1])).run(ARMS[:2], rounds=1)
    rows = rows_of(run)
    assert (rows["resident", "decode"]["identical"], rows["lru", "decode"]["identical"]) == (True, False)


def test_a_slower_link_costs_what_it_takes(subject, store):
    text, link = Text(IDS[:1]), Link(1e12, 0.002)
    run = runner(subject, store, text, link=link).run(ARMS[:2], rounds=2)
    rows = rows_of(run)
    decode = rows["lru", "decode"]
    assert decode["stall_seconds"] >= 0.002 * decode["demand_loads"] > 0
    assert decode["seconds"] > decode["stall_seconds"]
    assert (decode["link_bandwidth"], decode["link_latency"]) == (1e12, 0.002)


def test_the_table_is_kept_with_what_it_was_made_from(subject, store, tmp_path):
    table = runner(subject, store, Text(IDS[:1])).run(ARMS, rounds=1).table
    write_offloaded(table, tmp_path / "offloaded.parquet", {"model": "mine"})
    kept = read_table(tmp_path / "offloaded.parquet")
    assert kept.to_pylist() == table.to_pylist()
    assert pc.sum(kept["tokens"]).as_py() == 4 * 12
    assert read_provenance(tmp_path / "offloaded.parquet") == {"model": "mine"}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"batch": 6}, "batch: 6; for 5 sequences of 12 tokens it must be from 1 to 5"),
        ({"prompt": 0}, "prompt: 0; .* from 1 to 12"),
        ({"generate": -1}, "generate: -1; .* 0 or more"),
    ],
)
def test_a_text_that_cannot_be_decoded_is_one_line(wrong, message):
    with pytest.raises(VarError, match=message):
        Text(IDS, **wrong)


@pytest.mark.parametrize(
    ("arms", "rounds", "message"),
    [
        ((Arm("a", 4), Arm("a", 6)), 1, "arms: a is there twice"),
        ((), 1, "arms: give one"),
        ((Arm("a", 4),), 0, "rounds: 0"),
        ((Arm("a", 1),), 1, "capacity: 1 experts do not hold the 2"),
    ],
)
def test_arms_that_cannot_be_run_are_one_line(subject, store, arms, rounds, message):
    with pytest.raises(VarError, match=message):
        runner(subject, store, Text(IDS)).run(arms, rounds)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_computes_the_same_with_few_of_its_experts(store):
    subject = Subject.of("mixtral")
    subject.model.to("cuda")
    run = runner(subject, PinnedStore(store, 3), Text(IDS, batch=2, prompt=4)).run(ARMS, rounds=2)
    rows = rows_of(run)
    assert all(row["identical"] for row in rows.values())
    needed = [[set(layer) for layer in step] for step in run.needed["lru"]]
    expected = replay_residency(needed, [[set()] * 3] * len(needed), 9, True)
    for name, number in expected.items():
        assert sum(rows["lru", phase][name] for phase in ("prefill", "decode")) == number
    assert rows["lru", "decode"]["stall_seconds"] > 0
