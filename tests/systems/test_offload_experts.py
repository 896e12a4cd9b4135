"""A model with few experts in fast memory computes what it computes with all, and counts what it should."""

import threading
import time
from dataclasses import asdict, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DynamicCache

from moe_models import VOCABULARY
from policy_subject import Subject
from residency_reference import replay_residency
from systems_decisions import decisions_of
from var_core.errors import VarError
from var_core.systems.offload.experts import Offloaded
from var_core.systems.offload.prefetch import NextLayer, RandomExperts, TokenTable
from var_core.systems.offload.store import MappedStore, layer_file, write_experts
from var_core.systems.offload.transfer import Link
from var_core.systems.predictions import fit_next_layer

FAMILIES = ("mixtral", "olmoe", "qwen2_moe", "qwen3_moe")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Sums that several threads share out differ in the last bit from run to run."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def subjects() -> dict[str, Subject]:
    return {family: Subject.of(family) for family in FAMILIES}


@pytest.fixture(scope="module")
def stores(subjects, tmp_path_factory) -> dict[str, MappedStore]:
    folder = tmp_path_factory.mktemp("experts")
    for family, subject in subjects.items():
        write_experts(subject.sites, folder / family)
    return {family: MappedStore(folder / family, len(subject.sites)) for family, subject in subjects.items()}


def some_text(sequences: int = 2, length: int = 14, seed: int = 5) -> torch.Tensor:
    return torch.randint(VOCABULARY, (sequences, length), generator=torch.Generator().manual_seed(seed))


@torch.inference_mode()
def decode(model, ids: torch.Tensor, prompt: int) -> torch.Tensor:
    cache = DynamicCache(config=model.config)
    parts = [model(input_ids=ids[:, :prompt], past_key_values=cache).logits]
    for place in range(prompt, ids.shape[1]):
        parts.append(model(input_ids=ids[:, place : place + 1], past_key_values=cache).logits)
    return torch.cat(parts, dim=1)


class Watched:
    """Notes down what another predictor predicts for which layer of which step."""

    def __init__(self, predictor) -> None:
        self.inner, self.steps = predictor, []

    def begins(self, *tokens):
        predicted = self.inner.begins(*tokens)
        self.steps.append([set(each) for each in predicted])
        return predicted

    def decided(self, layer, experts):
        more = self.inner.decided(layer, experts)
        if more:
            self.steps[-1][layer + 1] |= set(more)
        return more


def offloaded(subject, store, capacity, shared, predictor=None, link=None, needed=None) -> Offloaded:
    k = subject.layout.top_k
    return Offloaded(subject.model, subject.sites, store, capacity, shared, k, predictor, link, needed)


def predictors(subject: Subject):
    ids = some_text(4, 40, seed=9)
    batch = subject.decisions(ids)
    E, L = subject.layout.experts, len(subject.layout)
    return {
        "none": lambda: None,
        "token table": lambda: TokenTable(subject.table(ids, batch), E),
        "next layer": lambda: NextLayer(fit_next_layer(decisions_of(batch.experts.permute(1, 0, 2).numpy(), E))),
        "random": lambda: RandomExperts(L, E, subject.layout.top_k),
    }


@pytest.mark.parametrize("implementation", ["grouped_mm", "batched_mm", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_not_a_bit_differs_from_the_resident_model(subjects, stores, family, implementation):
    subject, ids = subjects[family], some_text()
    k, E = subject.layout.top_k, subject.layout.experts
    subject.model.set_experts_implementation(implementation)
    try:
        expected = decode(subject.model, ids, prompt=5)
        for capacity, shared in [(k, False), (k, True), (k + 1, False), (E, False), (2 * E, True)]:
            with offloaded(subject, stores[family], capacity, shared, RandomExperts(3, E, k)):
                assert torch.equal(decode(subject.model, ids, prompt=5), expected), (capacity, shared)
        assert torch.equal(decode(subject.model, ids, prompt=5), expected)  # and is whole again
    finally:
        subject.model.set_experts_implementation("grouped_mm")


def test_the_experts_in_places_are_what_is_computed_with(subjects, stores):
    # The control of the test above: with other weights in the store, other numbers come out.
    subject, ids = subjects["mixtral"], some_text()
    expected = decode(subject.model, ids, prompt=1)
    with offloaded(subject, stores["mixtral"], 4, False) as running:
        for rows in (running._slots.of(layer) for layer in range(3)):
            assert all(len(each) == 4 for each in rows.values())
        decode(subject.model, ids, prompt=1)
        for layer in range(3):
            for each in running._slots.of(layer).values():
                each.mul_(2)
        assert not torch.equal(decode(subject.model, ids, prompt=1), expected)


@pytest.mark.parametrize("name", ["none", "token table", "next layer", "random"])
@given(data=st.data())
@settings(max_examples=12, deadline=None)
def test_counts_are_those_of_the_plain_semantics(subjects, stores, name, data):
    family = data.draw(st.sampled_from(FAMILIES))
    subject, k, E = subjects[family], subjects[family].layout.top_k, subjects[family].layout.experts
    shared = data.draw(st.booleans())
    capacity = data.draw(st.integers(k, 3 * E if shared else E))
    prompt, sequences = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 3))
    ids = some_text(sequences, 9, seed=data.draw(st.integers(0, 99)))
    predictor = predictors(subject)[name]()
    watched = predictor and Watched(predictor)
    needs: list[list[set[int]]] = []

    def needed(layer, experts):
        if layer == 0:
            needs.append([])
        needs[-1].append(set(experts))

    with offloaded(subject, stores[family], capacity, shared, watched, needed=needed) as running:
        decode(subject.model, ids, prompt)
        counts = running.counts
    nothing: list[list[set[int]]] = [[set()] * 3 for _ in needs]
    expected = replay_residency(needs, watched.steps if watched else nothing, capacity, shared)
    mine = asdict(counts)
    mine["useless"] += mine["unused"]
    assert {name: mine[name] for name in expected} == expected
    loads = counts.demand_loads + counts.prefetch_loads
    assert counts.bytes_moved == loads * sum(part.bytes for part in stores[family].layout(0).values())
    assert counts.late <= counts.hits


def test_a_layer_needs_what_its_experts_are_given(subjects, stores):
    subject, ids, seen = subjects["mixtral"], some_text(), []
    with offloaded(subject, stores["mixtral"], 8, False, needed=lambda *each: seen.append(each)):
        subject.logits(ids)
    batch = subject.decisions(ids)
    assert seen == [(layer, sorted(set(batch.experts[layer].flatten().tolist()))) for layer in range(3)]


def test_a_policy_decides_what_is_streamed(subjects, stores):
    subject, ids, seen = subjects["mixtral"], some_text(), []
    tables = subject.table(ids, subject.decisions(ids))
    tables = replace(tables, usable=tables.present.clone())
    with subject.policy(tables):
        expected = decode(subject.model, ids, prompt=5)
    assert not torch.equal(expected, decode(subject.model, ids, prompt=5))
    with (
        offloaded(subject, stores["mixtral"], 3, False, needed=lambda *each: seen.append(each)),
        subject.policy(tables),
    ):
        assert torch.equal(decode(subject.model, ids, prompt=5), expected)
    # Every token's experts are those of its row.
    rows = [sorted(set(tables.experts[layer, ids[:, :5]].flatten().tolist())) for layer in range(3)]
    assert seen[:3] == list(enumerate(rows))


def test_with_room_for_all_each_expert_is_loaded_once(subjects, stores):
    subject = subjects["mixtral"]
    with offloaded(subject, stores["mixtral"], 8, False) as running:
        decode(subject.model, some_text(4, 40), prompt=20)
        first = running.counts
        decode(subject.model, some_text(4, 40), prompt=20)
        again = running.counts.since(first)
    assert first.demand_loads == 24  # 3 layers of 8, all of which this text uses
    assert (again.demand_loads, again.hits) == (0, again.accesses)
    assert again.bytes_moved == 0


class Oracle:
    """Predicts what a run before needed, so that all is prefetched."""

    def __init__(self, steps: list[list[list[int]]]) -> None:
        self.steps = iter(steps)

    def begins(self, *tokens):
        return next(self.steps)

    def decided(self, layer, experts):
        return ()


def test_what_is_known_beforehand_is_loaded_beforehand_and_waited_for_less(subjects, stores):
    subject, ids = subjects["mixtral"], some_text(1, 12)
    needs: list[list[list[int]]] = []

    def needed(layer, experts):
        if layer == 0:
            needs.append([])
        needs[-1].append(list(experts))

    # 5 ms for an expert: far more than this small model computes, so that the link is what takes time.
    link = Link(1e12, 0.005)
    handles = [site.experts.register_forward_hook(lambda *_: time.sleep(0.02)) for site in subject.sites]
    try:
        with offloaded(subject, stores["mixtral"], 4, False, link=link, needed=needed) as running:
            decode(subject.model, ids, prompt=1)
            alone = running.counts
        with offloaded(subject, stores["mixtral"], 4, False, Oracle(needs), link=link) as running:
            decode(subject.model, ids, prompt=1)
            known = running.counts
    finally:
        for handle in handles:
            handle.remove()
    assert alone.hits < alone.accesses
    assert alone.stall_seconds >= 0.005 * alone.demand_loads
    assert (known.hits, known.demand_loads, known.useless, known.unused) == (known.accesses, 0, 0, 0)
    # Layer 0, a third, is known only when the step begins, so some of it is late; behind it there are 20 ms for 10.
    assert 0 < known.late < known.accesses / 2
    assert known.stall_seconds < 0.7 * alone.stall_seconds


def test_prefetching_goes_on_while_the_model_computes(subjects, stores):
    # A late prefetch is waited for, and what it brings is whole: the outputs do not differ.
    subject, ids = subjects["qwen3_moe"], some_text(1, 12)
    expected = decode(subject.model, ids, prompt=1)
    random = RandomExperts(3, 12, 4)
    with offloaded(subject, stores["qwen3_moe"], 6, False, random, link=Link(1e12, 0.002)) as running:
        assert torch.equal(decode(subject.model, ids, prompt=1), expected)
        assert running.counts.late > 0


def test_a_capacity_below_k_is_refused(subjects, stores):
    with pytest.raises(VarError, match="capacity: 1 experts do not hold the 2"):
        offloaded(subjects["mixtral"], stores["mixtral"], 1, True)


def test_experts_of_another_model_are_refused(subjects, stores):
    with pytest.raises(VarError, match=r"layers\.0\.mlp\.experts: the stored experts are not of this model's shape"):
        offloaded(subjects["mixtral"], stores["olmoe"], 4, True)


def test_a_failed_prefetch_is_told_where_the_expert_is_needed(subjects, stores, tmp_path):
    subject = subjects["mixtral"]
    write_experts(subject.sites, tmp_path)

    class Failing(MappedStore):
        """The disk fails when the thread reads it."""

        def parts(self, layer, expert):
            if threading.current_thread() is not threading.main_thread():
                raise OSError("no answer from the disk")
            return super().parts(layer, expert)

    with (
        pytest.raises(OSError, match="no answer"),
        offloaded(subject, Failing(tmp_path, 3), 8, False, RandomExperts(3, 8, 8)),
    ):
        decode(subject.model, some_text(), prompt=1)
    assert subject.logits(some_text()).isfinite().all()
    assert layer_file(tmp_path, 0).exists()
