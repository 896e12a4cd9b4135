"""Caches of experts: each rule against a plain one, Belady's bound, prefetches, and what they cost on the link."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from residency_reference import replay_residency
from var_core.errors import VarError
from var_core.systems.accesses import NEVER, Accesses
from var_core.systems.prefetching import Pace, Predicted, replay_prefetching
from var_core.systems.replay import RULES, Capacity, replay


def accesses_of_sets(needed, width, unit=None):
    """Accesses of [[set of experts of each layer] of each pass]."""
    layers, flat = len(needed[0]), [sorted(each) for step in needed for each in step]
    offsets = np.concatenate([[0], np.cumsum([len(each) for each in flat])]).astype(np.int64)
    experts = np.array(
        [place % layers * width + expert for place, each in enumerate(flat) for expert in each], np.int64
    )
    unit = np.zeros(len(needed), np.int64) if unit is None else np.array(unit, np.int64)
    starts = np.append(True, np.diff(unit) != 0)
    return Accesses(layers, width, offsets, experts, unit, np.ones(len(needed), np.int64), starts)


def predicted_of_sets(predicted, width):
    own = accesses_of_sets(predicted, width)
    return Predicted(own.offsets, own.experts)


def still(layers, devices=1):
    """A device on which nothing takes time."""
    return Pace(*np.zeros((2, devices, layers)), np.zeros(devices), np.zeros((devices, layers)))


@st.composite
def routings(draw, needed_at_once=None):
    layers, width = draw(st.integers(1, 3)), draw(st.integers(2 if needed_at_once is None else needed_at_once, 7))
    most = needed_at_once or width
    needs = st.frozensets(st.integers(0, width - 1), min_size=1, max_size=most)
    some = st.frozensets(st.integers(0, width - 1), max_size=width)
    steps = draw(st.integers(1, 12))
    tables = [
        draw(st.lists(st.lists(each, min_size=layers, max_size=layers), min_size=steps, max_size=steps))
        for each in (needs, some)
    ]
    shared = draw(st.booleans())
    capacity = draw(st.integers(1 if needed_at_once is None else most, layers * width if shared else width))
    return *tables, width, capacity, shared


def cache(capacity, shared, layers, sizes=None):
    sizes = np.ones(layers, np.int64) if sizes is None else sizes
    return Capacity.of_all(capacity, sizes) if shared else Capacity.per_layer(capacity, sizes)


@given(routings())
@settings(max_examples=400, deadline=None)
def test_lru_with_prefetches_counts_what_the_plain_semantics_say(case):
    needed, predicted, width, capacity, shared = case
    accesses = accesses_of_sets(needed, width)
    found = replay_prefetching(
        accesses, predicted_of_sets(predicted, width), cache(capacity, shared, accesses.layers), False,
        still(accesses.layers),
    )  # fmt: skip
    expected = replay_residency(needed, predicted, capacity, shared)
    assert {
        "accesses": len(accesses.experts), "hits": found.hits.sum(), "demand_loads": found.loads.sum(),
        "prefetch_loads": found.prefetched.sum(), "useless": found.useless.sum(),
    } == expected  # fmt: skip


@given(routings())
@settings(max_examples=200, deadline=None)
def test_without_predictions_prefetching_is_lru(case):
    needed, _, width, capacity, shared = case
    accesses = accesses_of_sets(needed, width)
    own = cache(capacity, shared, accesses.layers)
    plain = replay(accesses, "lru", own, False)
    timed = replay_prefetching(accesses, Predicted.nothing(accesses), own, False, still(accesses.layers))
    assert (plain.hits == timed.hits).all()
    assert (plain.loads == timed.loads).all()


def keep_plainly(needed, width, capacity, shared, key):
    """Loads of a cache that keeps what has the largest keys and is needed now, said plainly.

    `key` is called as key(item, uses so far, step of loading, step of last use, steps of all later uses).
    """
    history = [(layer, frozenset((layer, expert) for expert in each))
               for step in needed for layer, each in enumerate(step)]  # fmt: skip
    caches, loads, uses, loaded, used = {}, 0, {}, {}, {}
    for now, (layer, needs) in enumerate(history):
        held = caches.setdefault(0 if shared else layer, set())
        missing = needs - held
        loads += len(missing)
        for item in needs:
            uses[item] = uses.get(item, 0) + 1
            used[item] = now
        loaded.update(dict.fromkeys(missing, now))

        def worth(item, now=now):
            later = [step for step, (_, each) in enumerate(history) if step > now and item in each]
            return key(item, uses[item], loaded[item], used[item], later)

        kept = held | needs
        while len(kept) > capacity:
            kept.remove(min(kept - needs if len(needs) <= capacity else kept, key=worth))
        caches[0 if shared else layer] = kept
    return loads


@given(routings(needed_at_once=3))
@settings(max_examples=300, deadline=None)
def test_belady_is_the_furthest_next_use(case):
    needed, _, width, capacity, shared = case
    accesses = accesses_of_sets(needed, width)
    expected = keep_plainly(needed, width, capacity, shared, lambda *given: -min(given[4], default=NEVER))
    assert replay(accesses, "belady", cache(capacity, shared, accesses.layers), False).loads.sum() == expected


@given(routings(needed_at_once=1))
@settings(max_examples=300, deadline=None)
@pytest.mark.parametrize(
    ("rule", "key"),
    [
        ("lru", lambda item, uses, loaded, used, later: used),
        ("fifo", lambda item, uses, loaded, used, later: loaded),
        ("lfu", lambda item, uses, loaded, used, later: (uses, used)),
        ("static", lambda item, uses, loaded, used, later: HEAT[item]),
    ],
)
def test_each_rule_is_its_key(rule, key, case):
    needed, _, width, capacity, shared = case
    accesses = accesses_of_sets(needed, width)
    heat = np.array([HEAT[layer, expert] for layer in range(accesses.layers) for expert in range(width)])
    found = replay(accesses, rule, cache(capacity, shared, accesses.layers), False, heat)
    assert found.loads.sum() == keep_plainly(needed, width, capacity, shared, key)
    assert (found.hits + found.loads == len(accesses.experts)).all()


HEAT = {
    (layer, expert): int(heat)
    for (layer, expert), heat in zip(
        [(layer, expert) for layer in range(3) for expert in range(7)],
        np.random.default_rng(0).permutation(21),
        strict=True,
    )
}


@given(routings(), st.booleans())
@settings(max_examples=400, deadline=None)
def test_nothing_loads_less_than_belady(case, cold):
    """Neither any rule nor any prefetching: who loads early loads as often."""
    needed, predicted, width, capacity, shared = case
    unit = np.arange(len(needed)) // 4
    accesses = accesses_of_sets(needed, width, unit)
    own = cache(capacity, shared, accesses.layers)
    heat = np.random.default_rng(1).integers(0, 9, accesses.layers * width)
    least = replay(accesses, "belady", own, cold).loads.sum()
    for rule in RULES:
        assert replay(accesses, rule, own, cold, heat).loads.sum() >= least
    for each in (predicted, needed):
        timed = replay_prefetching(accesses, predicted_of_sets(each, width), own, cold, still(accesses.layers))
        assert (timed.loads + timed.prefetched).sum() >= least


def test_rules_differ_where_they_should():
    """A control: on a loop one longer than the cache LRU and FIFO never hit, and Belady nearly always does."""
    loop = [[{step % 5}] for step in range(200)]
    accesses = accesses_of_sets(loop, 5)
    rate = {rule: replay(accesses, rule, cache(4, False, 1), False, np.arange(5)).hits.sum() / 200 for rule in RULES}
    assert rate["lru"] == rate["fifo"] == rate["lfu"] == 0
    assert rate["belady"] > 0.7
    assert 0.5 < rate["static"] <= rate["belady"]


def test_a_cold_cache_keeps_nothing_between_sequences():
    accesses = accesses_of_sets([[{0}], [{0}], [{0}], [{0}]], 2, [0, 0, 1, 1])
    own = cache(2, False, 1)
    for rule in RULES:
        assert replay(accesses, rule, own, True, np.zeros(2, np.int64)).hits.tolist() == [1, 1]
        assert replay(accesses, rule, own, False, np.zeros(2, np.int64)).hits.tolist() == [1, 2]
    for cold, hits in ((True, [1, 1]), (False, [1, 2])):
        timed = replay_prefetching(accesses, Predicted.nothing(accesses), own, cold, still(1))
        assert timed.hits.tolist() == hits


def test_time_is_what_follows_from_every_load():
    """Two layers; attention 1, an expert 2, a load 10 seconds, and the second device loads in 1."""
    accesses = accesses_of_sets([[{0}, {1}], [{0}, {0}]], 2)
    pace = Pace(np.full((2, 2), 1.0), np.full((2, 2), 2.0), np.zeros(2), np.array([[10.0, 10.0], [1.0, 1.0]]))
    own = cache(2, False, 2)
    plain = replay_prefetching(accesses, Predicted.nothing(accesses), own, False, pace)
    # Three loads, each waited for: 30 and 3 seconds; computing takes 4 x (1 + 2).
    assert plain.stall[:, 0].tolist() == [30, 3]
    assert plain.seconds[:, 0].tolist() == [42, 15]
    right = replay_prefetching(accesses, Predicted(accesses.offsets, accesses.experts), own, False, pace)
    # The first is asked for when the pass begins, one second before it is needed. Each other load of the second layer
    # travels for 3 seconds before it is needed.
    assert right.stall[:, 0].tolist() == [(10 - 1) + (10 - 3) + (10 - 3), 0]
    assert right.late[:, 0].tolist() == [3, 0]
    assert right.loads.sum() == 0
    wrong = replay_prefetching(accesses, predicted_of_sets([[{1}, {0}], [{1}, {1}]], 2), own, False, pace)
    # Wrong ones are waited for too, and their bytes are moved in vain.
    assert wrong.stall[0, 0] > plain.stall[0, 0]
    assert wrong.moved.sum() > plain.moved.sum()


@pytest.mark.parametrize(("busy", "recall"), [(0.3, 0.2), (0.9, 0.7), (3.0, 0.6), (3.0, 0.9), (12.0, 0.95)])
def test_the_closed_form_says_what_the_replay_finds(busy, recall):
    """On random routing that a cache of any size holds nothing of, and predictions that are right by chance."""
    from var_core.systems.break_even import Layer

    random, layers, width, k, passes = np.random.default_rng(3), 6, 512, 4, 400
    needed = [[set(random.choice(width, k, replace=False).tolist()) for _ in range(layers)] for _ in range(passes)]
    predicted = [
        [{e if random.random() < recall else int(random.integers(width)) for e in each} for each in step]
        for step in needed
    ]
    load = busy / k
    pace = Pace(np.full((1, layers), 0.5), np.full((1, layers), 0.5 / k), np.zeros(1), np.full((1, layers), load))
    accesses, own = accesses_of_sets(needed, width), cache(2 * k, False, layers)
    plain = replay_prefetching(accesses, Predicted.nothing(accesses), own, False, pace)
    timed = replay_prefetching(accesses, predicted_of_sets(predicted, width), own, False, pace)
    layer = Layer(before=0.5, experts=0.5, load=load, needed=k, hit_rate=0.0)
    assert plain.seconds.sum() / timed.seconds.sum() == pytest.approx(float(layer.speed_up(recall)), rel=0.05)


def test_what_cannot_be_is_refused_in_one_line():
    with pytest.raises(VarError, match="smaller than the 4 experts of one token"):
        Capacity.of_all(3, np.ones(2, np.int64)).check(4)
    with pytest.raises(VarError, match="static cache needs counts"):
        replay(accesses_of_sets([[{0}]], 2), "static", cache(1, False, 1), False)
    with pytest.raises(VarError, match="load times that are negative"):
        Pace(*np.zeros((2, 1, 1)), np.zeros(1), np.full((1, 1), -1.0))
    accesses = accesses_of_sets([[{0}]], 2)
    with pytest.raises(VarError, match="make both of the same trace"):
        replay_prefetching(
            accesses, Predicted(np.zeros(3, np.int64), np.zeros(0, np.int64)), cache(1, False, 1), False, still(1)
        )
