import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from clustered import ClusteredText
from var_core.errors import VarError
from var_core.policy.audit import BETS, HIGHEST_CERTIFIED, AuditMonitor, sequence_means, watched_agreement
from var_core.policy.clusters import ClusterMeans

ALPHA = 0.05
RUNS = 1000
LENGTH = 10_000
CERTIFIED = 0.8


def watched(outcomes, certified=CERTIFIED, batch=2000):
    """A thousand runs as layers of one monitor, each at the full alpha."""
    monitor = AuditMonitor(np.full(outcomes.shape[1], certified), ALPHA, family=1)
    for start in range(0, len(outcomes), batch):
        rows = outcomes[start : start + batch]
        monitor.update(rows, np.ones(rows.shape, dtype=bool))
    return monitor


def exactly_at_the_level(random):
    return random.random((LENGTH, RUNS)) < CERTIFIED


def not_binary(random):
    """Recall of two experts, mean 0.8."""
    return random.choice([0.0, 0.5, 1.0], p=[0.1, 0.2, 0.7], size=(LENGTH, RUNS))


def moving_above_the_level(random):
    """Now at the level, now above it, by time and by what came just before."""
    mean = CERTIFIED + 0.1 * np.maximum(np.sin(np.arange(LENGTH) / 300), 0)[:, None]
    agreed = random.random((LENGTH, RUNS)) < mean
    lucky = random.random((LENGTH, RUNS)) < np.where(np.roll(agreed, 1, axis=0), 0.0, 0.5)
    return agreed | lucky


@pytest.mark.parametrize("null", [exactly_at_the_level, not_binary, moving_above_the_level])
def test_false_alarms_are_at_most_as_frequent_as_stated(null):
    monitor = watched(null(np.random.default_rng(0)))
    assert monitor.alarmed.mean() <= ALPHA
    assert (monitor.observed[~monitor.alarmed] == LENGTH).all()


def test_a_test_for_one_look_that_is_looked_at_often_alarms_far_too_often():
    outcomes = exactly_at_the_level(np.random.default_rng(0))
    looks = np.arange(100, LENGTH + 1, 100)
    means = np.cumsum(outcomes, axis=0)[looks - 1] / looks[:, None]
    z = (means - CERTIFIED) / np.sqrt(CERTIFIED * (1 - CERTIFIED) / looks)[:, None]
    assert (z[-1] < stats.norm.ppf(ALPHA)).mean() == pytest.approx(ALPHA, abs=0.02)
    assert (z < stats.norm.ppf(ALPHA)).any(axis=0).mean() > 5 * ALPHA


def test_the_capital_is_a_fair_game_at_the_level():
    """Its expectation is 1 after any number of outcomes: no slack is lost, and none is won."""
    for certified, outcomes in ((0.8, 5), (0.5, 8)):
        grid = np.indices((2,) * outcomes).reshape(outcomes, -1).astype(float)
        chance = np.where(grid == 1, certified, 1 - certified).prod(axis=0)
        monitor = AuditMonitor(np.full(grid.shape[1], certified), 1e-9)
        monitor.update(grid, np.ones(grid.shape, dtype=bool))
        assert not monitor.alarmed.any()
        assert (monitor.capital * chance).sum() == pytest.approx(1)


def test_a_shift_is_found_and_a_larger_one_sooner():
    random = np.random.default_rng(1)
    medians = []
    for drop in (0.1, 0.2, 0.3):
        monitor = watched(random.random((1500, 300)) < CERTIFIED - drop, batch=500)
        assert monitor.alarmed.all()
        medians.append(np.median([event.observed for event in monitor.events]))
    assert medians[0] < 400 and medians[0] > 2 * medians[1] > 2 * medians[2] > 10


def test_a_shift_after_long_agreement_is_found_soon():
    """Where all capital is in play from the start, the good time has eaten it, and the delay grows with that time."""
    random = np.random.default_rng(2)
    good, runs = 10_000, 80
    outcomes = np.concatenate([random.random((good, runs)) < 0.9, random.random((1000, runs)) < 0.6])
    monitor = watched(outcomes, batch=1000)
    assert monitor.alarmed.all()
    delays = np.array([event.observed for event in monitor.events]) - good
    assert 0 < np.median(delays) < 250

    gains = 1 + BETS[:, None] * ((CERTIFIED - outcomes.T[:, None]) / (1 - CERTIFIED))
    from_the_start = np.logaddexp.reduce(np.log(gains).cumsum(axis=2), axis=1) - np.log(len(BETS))
    found = (from_the_start >= np.log(1 / ALPHA)).any(axis=1)
    assert found.mean() < 0.2


def test_layers_share_the_probability_of_a_false_alarm():
    """Eight layers that see the same text: any false alarm at all is at most as probable as one test's."""
    layers, runs = 8, 300
    random = np.random.default_rng(3)
    common = random.random((2000, runs, 1)) < 0.9
    outcomes = (common & (random.random((2000, runs, layers)) < CERTIFIED / 0.9)).reshape(2000, -1)
    monitor = AuditMonitor(np.full(runs * layers, CERTIFIED), ALPHA, family=layers)
    monitor.update(outcomes, np.ones(outcomes.shape, dtype=bool))
    assert monitor.alarmed.reshape(runs, layers).any(axis=1).mean() <= ALPHA
    assert AuditMonitor(np.full(8, 0.5), ALPHA).threshold == pytest.approx(8 / ALPHA)


@pytest.fixture(scope="module")
def hard_and_easy_text():
    """Streams of 150 sequences with 40 audited decisions each whose mean over sequences is as certified."""
    text = ClusteredText(lengths=(40,), shares=(1.0,), means=(CERTIFIED,), concentration=4.0)
    sums, _ = text.draw(150, 400, np.random.default_rng(4))
    order = np.random.default_rng(5).random((150, 40, 400)).argsort(axis=1)
    return (order < sums[:, None]).reshape(-1, 400)


def test_hard_sequences_alarm_a_monitor_of_decisions_but_not_one_of_sequences(hard_and_easy_text):
    """What the certificate promises is a mean over sequences; the expectation of a hard one's decisions is below it."""
    decisions = watched(hard_and_easy_text)
    assert decisions.alarmed.mean() > 0.5
    sequence = np.repeat(np.arange(150), 40)
    means, present = sequence_means(hard_and_easy_text, np.ones(hard_and_easy_text.shape, dtype=bool), sequence)
    sequences = AuditMonitor(np.full(400, CERTIFIED), ALPHA, family=1)
    sequences.update(means, present)
    assert sequences.alarmed.mean() <= ALPHA


def groups_of_sequences(runs, random):
    """Streams of 150 groups of 8 sequences in a row, whose groups' means are Beta, as certified in the mean."""
    groups = random.beta(4 * CERTIFIED, 4 * (1 - CERTIFIED), size=(150, runs)).repeat(8, axis=0)
    return random.binomial(40, groups) / 40


def test_dependent_sequences_need_their_groups_key():
    """Each alone, 8 in a row that are hard together alarm a monitor whose layer is as good as certified."""
    runs = 200
    sequences, numbers = groups_of_sequences(runs, np.random.default_rng(6)), np.arange(1200)
    assert watched(sequences).alarmed.mean() > 0.5
    clusters, monitor = (
        ClusterMeans(lambda number: number // 8, runs),
        AuditMonitor([CERTIFIED] * runs, ALPHA, family=1),
    )
    for start in range(0, 1200, 50):
        rows = slice(start, start + 50)
        monitor.update(*clusters.add(numbers[rows], sequences[rows], np.ones((50, runs), bool)))
    monitor.update(*clusters.end())
    assert monitor.observed[~monitor.alarmed].tolist() == [150] * int((~monitor.alarmed).sum())
    assert monitor.alarmed.mean() <= ALPHA


@given(st.integers(0, 2**31))
@settings(max_examples=50, deadline=None)
def test_clusters_are_closed_as_one_after_another_would_be(seed):
    random = np.random.default_rng(seed)
    keys, size = np.sort(random.integers(4, size=30)), (30, 2)
    means, present = random.random(size), random.random(size) < 0.6
    clusters, closed, at = ClusterMeans(lambda number: keys[number], 2), [], 0
    while at < 30:
        rows = np.arange(at, min(30, at := at + int(random.integers(1, 12))))
        closed.append(clusters.add(rows, means[rows], present[rows]))
    closed.append(clusters.end())
    found = [np.concatenate(parts) for parts in zip(*closed, strict=True)]
    expected = sequence_means(means, present, keys)
    seen = expected[1].any(axis=1)
    np.testing.assert_allclose(found[0], expected[0][seen])
    assert found[1].tolist() == expected[1][seen].tolist()


def test_sequence_means_by_hand():
    means, present = sequence_means(
        [[1, 0.5], [0, np.nan], [1, np.nan]], [[True, True], [True, False], [True, False]], [7, 7, 3]
    )
    assert means.tolist() == [[1, 0], [0.5, 0.5]]
    assert present.tolist() == [[True, False], [True, True]]


def brute_force(outcomes, certified, threshold):
    """Capital of one layer, outcome by outcome, as it is defined; and the number of the outcome that alarmed."""
    stakes, kept = np.zeros(len(BETS)), 1.0
    for number, outcome in enumerate(outcomes, start=1):
        added = 1 / np.log2(number + 1) - 1 / np.log2(number + 2)
        kept -= added
        stakes = (stakes + added) * (1 + BETS * (certified - outcome) / (1 - certified))
        if stakes.mean() + kept >= threshold:
            return stakes.mean() + kept, number
    return stakes.mean() + kept, None


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.lists(st.integers(1, 90), min_size=1, max_size=4), st.floats(0.1, 0.99))
def test_batches_are_the_same_as_one_outcome_at_a_time(seed, sizes, audited_share):
    random = np.random.default_rng(seed)
    certified = np.array([0.0, 0.5, 0.9, 0.99])
    rows = sum(sizes)
    outcomes = np.round(random.random((rows, 4)) ** random.choice([0.3, 1.0]), 1)
    audited = random.random((rows, 4)) < audited_share
    together, single = AuditMonitor(certified, ALPHA), AuditMonitor(certified, ALPHA)
    for batch in np.split(np.arange(rows), np.cumsum(sizes)[:-1]):
        together.update(outcomes[batch], audited[batch])
    for row in range(rows):
        single.update(outcomes[row : row + 1], audited[row : row + 1])
    assert together.capital == pytest.approx(single.capital, rel=1e-9)
    assert (together.observed == single.observed).all() and together.total == pytest.approx(single.total)
    assert sorted(event[:2] for event in together.events) == sorted(event[:2] for event in single.events)
    for layer in range(4):
        capital, alarm = brute_force(outcomes[audited[:, layer], layer], certified[layer], 4 / ALPHA)
        assert together.capital[layer] == pytest.approx(capital, rel=1e-9)
        assert together.alarmed[layer] == (alarm is not None)
        if alarm is not None:
            assert together.observed[layer] == alarm


def test_nothing_certified_never_alarms_and_the_highest_does_not_overflow():
    monitor = AuditMonitor([0.0, 0.999], ALPHA)
    agreed = np.zeros((5000, 2))
    monitor.update(agreed, np.ones(agreed.shape, dtype=bool))
    assert monitor.alarmed.tolist() == [False, True]
    assert monitor.capital[0] == pytest.approx(1) and np.isfinite(monitor.capital).all()
    assert monitor.events[0].observed == monitor.observed[1] < 5
    steady = AuditMonitor([0.999], ALPHA)
    steady.update(np.ones((20_000, 1)), np.ones((20_000, 1), dtype=bool))
    assert 0 < steady.capital[0] < 1


def test_an_event_says_what_was_seen_and_a_layer_alarms_once():
    outcomes = np.tile([[1.0, 0.0]], (100, 1))
    monitor = AuditMonitor([0.7, 0.7], ALPHA)
    events = monitor.update(outcomes, np.ones(outcomes.shape, dtype=bool))
    assert [event.layer for event in events] == [1] and events == monitor.events
    assert events[0].mean == 0 and events[0].certified == 0.7 and events[0].capital >= monitor.threshold
    assert monitor.update(outcomes, np.ones(outcomes.shape, dtype=bool)) == [] and len(monitor.events) == 1
    assert monitor.observed[1] == events[0].observed < monitor.observed[0] == 200


def test_state_survives_json_exactly():
    random = np.random.default_rng(6)
    outcomes, audited = random.random((400, 5)), random.random((400, 5)) < 0.4
    through, kept = AuditMonitor(np.full(5, 0.6), ALPHA), AuditMonitor(np.full(5, 0.6), ALPHA)
    for monitor in (through, kept):
        monitor.update(outcomes[:200], audited[:200])
    through = AuditMonitor.from_dict(json.loads(json.dumps(through.to_dict())))
    for monitor in (through, kept):
        monitor.update(outcomes[200:], audited[200:])
    assert json.dumps(through.to_dict()) == json.dumps(kept.to_dict())
    assert kept.events


def test_what_cannot_be_is_refused():
    state = AuditMonitor([0.5, 0.6], ALPHA).to_dict()
    for broken in (
        {key: value for key, value in state.items() if key != "stakes"},
        state | {"stakes": [[1.0]]},
        state | {"observed": [1]},
        state | {"events": [{"layer": 1}]},
    ):
        with pytest.raises(VarError, match="state of the audit"):
            AuditMonitor.from_dict(broken)
    with pytest.raises(VarError, match="certified agreement"):
        AuditMonitor([0.5, 1.0], ALPHA)
    with pytest.raises(VarError, match="alpha is 5"):
        AuditMonitor([0.5], 5)
    with pytest.raises(ValueError, match="between 0 and 1"):
        AuditMonitor([0.5], ALPHA).update([[1.5]], [[True]])
    with pytest.raises(ValueError, match="between 0 and 1"):
        AuditMonitor([0.5], ALPHA).update([[np.nan]], [[True]])


def promise(name, bound, **more):
    return {"name": name, "direction": "at least", "bound": bound, **more}


def test_a_certificate_that_promises_everything_can_be_watched():
    """Where all agrees the bound is 1, which the monitor refuses; watched a little lower it stays silent, and sees."""
    made = [
        promise("set_agreement_on_plain_states", 0.8, layer=2), promise("set_agreement_on_plain_states", 1.0, layer=0),
        promise("learned_share", 0.3), promise("clipped_loss_increase", 0.1),
    ]  # fmt: skip
    watched = watched_agreement(made, 4)
    assert watched.tolist() == [HIGHEST_CERTIFIED, 0.0, 0.8, 0.0]
    monitor = AuditMonitor(watched, ALPHA)
    assert not monitor.update(np.ones((10_000, 4)), np.ones((10_000, 4), bool))
    assert monitor.update(np.zeros((20, 4)), np.ones((20, 4), bool))[0].layer == 0
    with pytest.raises(VarError, match="layer 2 of 2"):
        watched_agreement(made, 2)
    assert watched_agreement(made[2:], 4).tolist() == [0.0] * 4
