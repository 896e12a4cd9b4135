"""The cache of experts counts what its semantics say, and its places never hold two experts at once."""

from dataclasses import asdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from residency_reference import replay_residency
from var_core.errors import VarError
from var_core.systems.offload.residency import Residency


def replay(needed, predicted, capacity, shared):
    """The library's counts, with every place checked on the way."""
    layers = len(needed[0])
    residency = Residency(layers, capacity, shared, top_k=1)
    held: dict[tuple[int, int], tuple[int, int]] = {}

    def fill(slots):
        for slot in slots:
            assert 0 <= slot.place < capacity
            held[0 if shared else slot.layer, slot.place] = (slot.layer, slot.expert)

    for step_needs, step_predictions in zip(needed, predicted, strict=True):
        residency.begin()
        fill(residency.predict(0, step_predictions[0]))
        for layer, experts in enumerate(step_needs):
            demand = residency.need(layer, experts)
            for slot in demand.hits:
                assert held[0 if shared else layer, slot.place] == (layer, slot.expert)
            fill(demand.loads)
            assert {slot.expert for slot in (*demand.hits, *demand.loads)} == experts
            if layer + 1 < layers:
                before = dict(held)
                loads = residency.predict(layer + 1, step_predictions[layer + 1])
                fill(loads)
                lost = set(before.values()) - set(held.values())
                assert not lost & {(layer, expert) for expert in experts}, "what is needed now has been replaced"
    counts = asdict(residency.counts)
    counts["useless"] += residency.unused
    return counts


@st.composite
def routings(draw):
    layers, experts = draw(st.integers(1, 4)), draw(st.integers(1, 7))
    some = st.frozensets(st.integers(0, experts - 1), max_size=experts)
    needs = st.frozensets(st.integers(0, experts - 1), min_size=1, max_size=experts)
    steps = draw(st.integers(1, 8))
    table = [st.lists(st.lists(each, min_size=layers, max_size=layers), min_size=steps, max_size=steps)
             for each in (needs, some)]  # fmt: skip
    shared = draw(st.booleans())
    capacity = draw(st.integers(1, layers * experts if shared else experts))
    return draw(table[0]), draw(table[1]), capacity, shared


@given(routings())
@settings(max_examples=500, deadline=None)
def test_counts_are_those_of_the_plain_semantics(case):
    assert replay(*case) == replay_residency(*case)


@given(routings())
@settings(max_examples=200, deadline=None)
def test_every_access_is_a_hit_or_a_load(case):
    counts = replay(*case)
    assert counts["accesses"] == counts["hits"] + counts["demand_loads"]
    assert counts["accesses"] == sum(len(experts) for step in case[0] for experts in step)
    assert 0 <= counts["useless"] <= counts["prefetch_loads"]


# Worked out by hand: expert numbers needed at the one layer, step by step.
BY_HAND = [
    # 0 and 1 are loaded; 2 in the place of 0, the older; 1 is there; 0 is loaded in the place of 2.
    ([{0, 1}, {2}, {1}, {0}], [set()] * 4, 2, {"accesses": 5, "hits": 1, "demand_loads": 4}),
    # 1 is resident and touched, 0 and 2 stream through; the last two, 0 and 2, stay.
    ([{1}, {0, 1, 2}, {0}, {2}], [set()] * 4, 2, {"accesses": 6, "hits": 3, "demand_loads": 3}),
    # 3 is loaded in time; 5 is loaded in vain and evicted by 1, because 3 was needed later; 1 is loaded on demand.
    ([{3}, {1}], [{3, 5}, set()], 2, {"accesses": 2, "hits": 1, "demand_loads": 1, "prefetch_loads": 2, "useless": 1}),
    # Predicted and never needed: useless though it stays.
    ([{0}], [{1}], 2, {"accesses": 1, "hits": 0, "demand_loads": 1, "prefetch_loads": 1, "useless": 1}),
]


@pytest.mark.parametrize(("needed", "predicted", "capacity", "expected"), BY_HAND)
@pytest.mark.parametrize("count", [replay, replay_residency])
def test_worked_by_hand(count, needed, predicted, capacity, expected):
    counted = count([[each] for each in needed], [[each] for each in predicted], capacity, False)
    assert counted == {"prefetch_loads": 0, "useless": 0, **expected}


@pytest.mark.parametrize("count", [replay, replay_residency])
def test_a_prediction_finds_no_room_among_what_is_needed_now(count):
    # Both shared places are needed at layer 0, so nothing can be prefetched for layer 1; with three one can.
    needed, predicted = [[{0, 1}, {0, 1}]], [[set(), {0, 1}]]
    assert count(needed, predicted, 2, True)["prefetch_loads"] == 0
    assert count(needed, predicted, 3, True) == {
        "accesses": 4, "hits": 1, "demand_loads": 3, "prefetch_loads": 1, "useless": 0,
    }  # fmt: skip


def test_a_capacity_below_k_is_refused():
    with pytest.raises(VarError, match="capacity: 3 experts of each layer do not hold the 4 that one token needs"):
        Residency(2, 3, False, top_k=4)
