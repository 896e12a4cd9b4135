"""Choosing ways, against deciding one token after another."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from var_core.policy.budget import Budget
from var_core.policy.cache import CacheLimits
from var_core.policy.decider import Decider
from var_core.policy.memory import UNTRUSTED, Remembered
from var_core.policy.sequences import Tokens
from var_core.policy.settings import BudgetSettings, CacheSettings, PolicySettings
from var_core.policy.tables import PolicyTables
from var_core.policy.ways import Way

K, E = 2, 6


def tables_of(vocabulary, usable):
    """Tables with an entry for each token id: experts id % E and the next."""
    rows = vocabulary + 1
    first = torch.arange(rows) % E
    experts = torch.stack((first, (first + 1) % E), dim=1)[None].to(torch.int16)
    return PolicyTables(
        torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64), experts, torch.full((1, rows, K), 0.25),
        torch.ones(1, rows, dtype=torch.bool), torch.ones(1, rows), torch.tensor([[*usable, False]]),
    )  # fmt: skip


def settings_of(limits, threshold, budget):
    return PolicySettings(
        "stored",
        None if limits is None else CacheSettings(limits, threshold),
        None if budget is None else BudgetSettings(*budget),
    )


def tokens_of(ids, counts=None):
    """A pass in the middle of sequences."""
    ids = torch.from_numpy(ids)
    counts = torch.ones_like(ids, dtype=torch.bool) if counts is None else torch.from_numpy(counts)
    none, zeros = torch.full_like(ids, -1), torch.zeros_like(ids)
    return Tokens(ids, counts, zeros.bool(), none, zeros, torch.arange(len(ids)), zeros)


class Plain:
    """One token after another: the words of the definition, as directly as they can be written."""

    def __init__(self, limits, threshold, most, window, sequences):
        self.limits, self.threshold, self.most, self.window = limits, threshold, most, window
        self.entries = [{} for _ in range(sequences)]  # context -> [written, used, decision or None, confidence]
        self.context = [() for _ in range(sequences)]
        self.met = [0] * sequences
        self.flags = [[] for _ in range(sequences)]

    def decide(self, s, token, counts, usable, confidence, router, table):
        if not counts:
            return -1, router
        limits, entries = self.limits, self.entries[s]
        self.context[s] = (*self.context[s], token)[-limits.context_window :]
        now, context = self.met[s], self.context[s]
        self.met[s] += 1
        entry = entries.get(context)
        hit = entry is not None and now - entry[0] < limits.time_to_live
        recent = sum(self.flags[s][-(self.window - 1) :]) if self.window > 1 else 0
        room = self.most is None or recent < self.most
        if usable:
            way, decision = Way.FAST, table
        elif hit and entry[2] is not None and entry[3] >= self.threshold:
            way, decision = Way.CACHED, entry[2]
        elif room:
            way, decision = Way.LEARNED, router
        elif hit and entry[2] is not None:
            way, decision = Way.CACHED, entry[2]
        else:
            way, decision = Way.FAST, table
        self.flags[s].append(way == Way.LEARNED)
        if not hit:
            learned = way == Way.LEARNED
            entries[context] = [now, now, decision if learned else None, confidence if learned else None]
        entries[context][1] = now
        if len(entries) > limits.capacity:
            del entries[min(entries, key=lambda key: entries[key][1])]
        return int(way), decision


@st.composite
def runs(draw):
    limits = CacheLimits(draw(st.integers(1, 3)), draw(st.integers(1, 5)), draw(st.integers(1, 10)))
    budget = draw(st.none() | st.tuples(st.sampled_from([0.0, 0.2, 0.5, 1.0]), st.integers(1, 6)))
    steps = draw(st.lists(st.integers(1, 8), min_size=1, max_size=4))
    threshold = draw(st.sampled_from([0.0, 0.5, 1.1]))
    return limits, threshold, budget, draw(st.integers(1, 3)), steps, draw(st.integers(0, 2**31))


def used_before(decider, sequences, random):
    """What other sequences left behind, forgotten: its memory is used again and must not be seen."""
    for rows in (sequences, sequences):
        decider.begin(rows)
        decider.look(tokens_of(random.integers(4, size=(rows, 9))))
        ways = decider.choose(0, lambda place: torch.ones(rows * 9))
        made = decider.give(0, ways, torch.full((rows * 9, K), 5), torch.full((rows * 9, K), 0.75))
        decider.remember(0, ways, made)
    decider.begin(sequences)
    return decider


@given(runs())
@settings(max_examples=300, deadline=None)
def test_whole_steps_decide_as_one_token_after_another(run):
    limits, threshold, budget, sequences, steps, seed = run
    random = np.random.default_rng(seed)
    tables = tables_of(4, random.random(4) < 0.3)
    decider = used_before(Decider(tables, settings_of(limits, threshold, budget)), sequences, random)
    spent = None if budget is None else Budget(*budget, layers=1, sequences=sequences)
    plain = Plain(limits, threshold, spent and spent.most, budget[1] if budget else 1, sequences)
    for length in steps:
        shape = (sequences, length)
        ids, counts = random.integers(4, size=shape), random.random(shape) < 0.9
        router_confidence = torch.from_numpy(random.random(shape).astype(np.float32)).flatten()
        router = torch.from_numpy(np.argsort(random.random((*shape, E)), axis=-1)[..., :K]).reshape(-1, K)
        asked = torch.zeros(sequences * length, dtype=torch.bool)

        def route(place, asked=asked, confidence=router_confidence):
            asked[slice(None) if place is None else place] = True
            return torch.where(asked, confidence, float("nan"))

        decider.look(tokens_of(ids, counts))
        ways = decider.choose(0, route)
        own = router.where(asked[:, None], torch.tensor(-7))
        made = decider.give(0, ways, own, torch.full((len(own), K), 0.5))
        decider.remember(0, ways, made)
        for place, (s, t) in enumerate(np.ndindex(shape)):
            token = int(ids[s, t])
            way, decision = plain.decide(
                s, token, counts[s, t], bool(tables.usable[0, token]), float(router_confidence[place]),
                router[place].tolist(), tables.experts[0, token].tolist(),
            )  # fmt: skip
            assert ways.way[place] == way
            if way >= 0:
                assert made.experts[place].tolist() == decision
                assert made.weights[place].tolist() == [0.25 if way == int(Way.FAST) else 0.5] * K
        if budget is None:
            # Nobody was asked for nothing.
            needed = (ways.way == int(Way.LEARNED)) | ~torch.from_numpy(counts).flatten()
            assert (asked == needed).all() and (ways.asked == needed).all()
        numbers = (ways.numbers.learned, ways.numbers.fast, ways.numbers.cached)
        assert numbers == tuple(int((ways.way == int(way)).sum()) for way in Way)


def test_new_sequences_cost_no_new_memory():
    decider = Decider(tables_of(4, [False] * 4), settings_of(CacheLimits(2, 8, 100), 0.0, None))
    decider.begin(2)
    remembered = decider.remembered
    assert remembered.experts.dtype == torch.int16
    remembered.confidence.fill_(1.0)
    decider.begin(2)
    assert decider.remembered is remembered and (remembered.confidence == UNTRUSTED).all()
    decider.begin(3)
    assert decider.remembered.experts.shape == (1, 3 * 8, K)


def test_a_decision_of_a_table_is_not_remembered_as_the_routers():
    remembered = Remembered.nothing(1, 2, K, torch.device("cpu"))
    assert (remembered.confidence == UNTRUSTED).all()


def hostile(random, kind, length):
    """Texts that want every decision learned, in different ways."""
    if kind == "all new":
        return np.arange(length)[None]
    if kind == "one token":
        return np.zeros((1, length), np.int64)
    return random.integers(1000, size=(1, length))


def test_the_budget_holds_in_every_window_of_hostile_text():
    random = np.random.default_rng(0)
    for kind in ("all new", "one token", "random"):
        for share, window in ((0.15, 20), (0.15, 7), (0.0, 5), (0.5, 1), (1.0, 3)):
            decider, learned = Decider(tables_of(1, [False]), settings_of(None, 0.0, (share, window))), []
            decider.begin(1)
            for length in (1, 50, 1, 1, 200, 3):
                decider.look(tokens_of(hostile(random, kind, length)))
                ways = decider.choose(0, lambda place, length=length: torch.zeros(length))
                learned += (ways.way == int(Way.LEARNED)).tolist()
            sums = np.convolve(learned, np.ones(window), "valid")
            assert sums.max() <= share * window + 1e-9
            # As many as are allowed, not fewer: a limit that forbids everything would pass the line above.
            assert sums.max() == int(share * window + 1e-9)
