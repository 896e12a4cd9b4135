"""The context cache against an ordered dictionary that meets one token after another."""

from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from var_core.errors import VarError
from var_core.policy.cache import CacheLimits, ContextCache


class Plain:
    """The same, written for reading."""

    def __init__(self, limits, sequences, shared):
        self.limits, self.shared = limits, shared
        self.memory = [OrderedDict() for _ in range(1 if shared else sequences)]
        self.met = [0] * len(self.memory)
        self.recent = [() for _ in range(sequences)]

    def look_up(self, step, token_ids, starts, counts):
        """For each token that counts: whether it hit, and the step and place that wrote its entry."""
        found = {}
        for s, t in np.ndindex(token_ids.shape):
            if not counts[s, t]:
                continue
            m = 0 if self.shared else s
            memory = self.memory[m]
            before = () if starts[s, t] else self.recent[s]
            context = (*before, int(token_ids[s, t]))[-self.limits.context_window :]
            self.recent[s] = context
            now = self.met[m]
            self.met[m] += 1
            hit = context in memory and now - memory[context][0] < self.limits.time_to_live
            if not hit:
                memory[context] = (now, step, s * token_ids.shape[1] + t)
            memory.move_to_end(context)
            if len(memory) > self.limits.capacity:
                memory.popitem(last=False)
            found[s, t] = (hit, *memory[context][1:])
        return found


@st.composite
def runs(draw):
    limits = CacheLimits(draw(st.integers(1, 4)), draw(st.integers(1, 6)), draw(st.integers(1, 12)))
    sequences = draw(st.integers(1, 3))
    steps = draw(st.lists(st.integers(1, 8), min_size=1, max_size=5))
    return limits, sequences, draw(st.booleans()), steps, draw(st.integers(0, 2**31))


@given(runs())
@settings(max_examples=300, deadline=None)
def test_it_is_an_ordered_dictionary_of_exact_contexts(run):
    limits, sequences, shared, steps, seed = run
    random = np.random.default_rng(seed)
    cache, plain = ContextCache(limits, sequences, shared), Plain(limits, sequences, shared)
    wrote = {}
    for step, length in enumerate(steps):
        ids = random.integers(3, size=(sequences, length))
        starts, counts = random.random(ids.shape) < 0.1, random.random(ids.shape) < 0.9
        expected = plain.look_up(step, ids, starts, counts)
        found = cache.look_up(ids, starts, counts)
        assert (found.slot >= 0).tolist() == counts.tolist()
        for place, (hit, in_step, writer) in expected.items():
            assert found.hit[place] == hit
            assert found.origin[place] == (writer if in_step == step else -1)
            memory = 0 if shared else place[0]
            if in_step == step:
                wrote[memory, int(found.slot[place]), in_step, writer] = True
            else:
                # The slot still holds what that token wrote.
                assert wrote.get((memory, int(found.slot[place]), in_step, writer))


def test_writers_are_those_who_wrote_last():
    cache = ContextCache(CacheLimits(1, 2, 100), 1)
    ids = np.array([[5, 6, 5, 7]])
    found = cache.look_up(ids, np.zeros_like(ids, bool), np.ones_like(ids, bool))
    assert found.origin.tolist() == [[0, 1, 0, 3]]
    # 7 pushed out 6, which was used less recently than 5.
    assert sorted(cache.writers[0].tolist()) == [0, 3]


def test_rows_of_a_batch_do_not_share_a_context():
    cache = ContextCache(CacheLimits(2, 8, 100), 2)
    ids = np.array([[1, 2], [1, 2]])
    found = cache.look_up(ids, np.zeros_like(ids, bool), np.ones_like(ids, bool))
    assert not found.hit.any()
    shared = ContextCache(CacheLimits(2, 8, 100), 2, shared=True).look_up(ids, *np.zeros((1, 2, 2), bool), ids > 0)
    assert shared.hit.tolist() == [[False, False], [True, True]]


@pytest.mark.parametrize("name", ["context_window", "capacity", "time_to_live"])
def test_limits_are_at_least_one(name):
    with pytest.raises(VarError, match=f"policy.cache.{name} is 0"):
        CacheLimits(**{"context_window": 1, "capacity": 1, "time_to_live": 1, name: 0})
