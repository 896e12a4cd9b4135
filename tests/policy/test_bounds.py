from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from clustered import ClusteredText
from var_core.errors import VarError
from var_core.policy.bounds import (
    GUARANTEES,
    Clusters,
    bets,
    betting_log_capital,
    holm,
    lower_bounds,
    p_values,
    simultaneous_lower_bounds,
    simultaneous_upper_bounds,
    upper_bounds,
)
from var_core.policy.loss_bounds import student_upper_bound

CLUSTERED = ("betting", "empirical Bernstein", "Hoeffding")
DELTA = 0.05
EXPERIMENTS = 1000
TEXT = ClusteredText()


@pytest.fixture(scope="module")
def experiments():
    """A thousand experiments of 150 sequences, one a column."""
    return Clusters.of(*TEXT.draw(150, EXPERIMENTS, np.random.default_rng(0)), TEXT.longest)


def naive_lower(clusters, delta):
    """The exact binomial bound that takes every decision for independent."""
    hits, trials = clusters.sums.sum(axis=0), clusters.counts.sum(axis=0)
    return stats.beta.ppf(delta, hits, trials - hits + 1)


def naive_upper(clusters, delta):
    return 1 - naive_lower(clusters.complement(), delta)


@pytest.mark.parametrize("method", CLUSTERED)
def test_bounds_on_the_ratio_hold_as_often_as_they_say(experiments, method):
    lower, upper = lower_bounds(experiments, DELTA, method), upper_bounds(experiments, DELTA, method)
    assert (lower <= TEXT.ratio).mean() >= 1 - DELTA
    assert (upper >= TEXT.ratio).mean() >= 1 - DELTA
    assert (lower < experiments.ratios).all() and (upper > experiments.ratios).all()


@pytest.mark.parametrize("method", CLUSTERED)
def test_bounds_on_the_mean_of_sequence_means_hold_as_often_as_they_say(experiments, method):
    means = experiments.means()
    assert (lower_bounds(means, DELTA, method) <= TEXT.mean_of_means).mean() >= 1 - DELTA
    assert (upper_bounds(means, DELTA, method) >= TEXT.mean_of_means).mean() >= 1 - DELTA


def planning(sequences, seed=20, text=TEXT):
    """Scores of other sequences, to plan bets by."""
    sums, counts = text.draw(sequences, 1, np.random.default_rng(seed))
    return Clusters.of(sums, counts, text.longest)


def test_bets_planned_on_other_text_make_bounds_narrower_and_no_less_true(experiments):
    plain, planned = lower_bounds(experiments, DELTA), lower_bounds(experiments, DELTA, calibration=planning(200))
    assert (planned <= TEXT.ratio).mean() >= 1 - DELTA
    assert (experiments.ratios - planned).mean() < 0.85 * (experiments.ratios - plain).mean()
    upper = upper_bounds(experiments, DELTA, calibration=planning(200))
    assert (upper >= TEXT.ratio).mean() >= 1 - DELTA
    assert upper.mean() < upper_bounds(experiments, DELTA).mean()


@pytest.mark.parametrize("concentration, mean", [(1000.0, 0.999), (0.1, 0.3)])
def test_bets_planned_on_other_text_of_another_kind_are_as_true(experiments, concentration, mean):
    unlike = ClusteredText(means=(mean,) * 3, concentration=concentration)
    bounds = lower_bounds(experiments, DELTA, calibration=planning(200, text=unlike))
    assert (bounds <= TEXT.ratio).mean() >= 1 - DELTA
    assert (experiments.ratios - bounds).mean() < 1.3 * (experiments.ratios - lower_bounds(experiments, DELTA)).mean()


def test_nothing_to_plan_by_still_gives_bets():
    for calibration in (Clusters.of([0.0], [0], 5), Clusters.of([5.0, 5.0], [5, 5], 5), Clusters.of([0.0], [5], 5)):
        shares, weights = bets(100, 5, calibration)
        assert ((shares > 0) & (shares <= 1)).all() and weights.sum() == pytest.approx(1)


def test_a_bound_that_counts_decisions_as_independent_does_not_hold(experiments):
    assert (naive_lower(experiments, DELTA) <= TEXT.ratio).mean() < 0.75
    assert (naive_upper(experiments, DELTA) >= TEXT.ratio).mean() < 0.75


def test_the_mean_of_means_is_not_the_ratio(experiments):
    """The two are promises about different things: bounds on one do not cover the other."""
    assert (lower_bounds(experiments.means(), DELTA) <= TEXT.ratio).mean() < 1 - DELTA


def test_bounds_hold_at_few_sequences_and_near_the_end_of_the_range():
    """Nearly always in agreement, rarely not at all: where intervals from a normal approximation fail."""
    text = ClusteredText(lengths=(50,), shares=(1.0,), means=(0.97,), concentration=0.3)
    clusters = Clusters.of(*text.draw(20, EXPERIMENTS, np.random.default_rng(1)), text.longest)
    for method in CLUSTERED:
        assert (lower_bounds(clusters, DELTA, method) <= text.ratio).mean() >= 1 - DELTA
    student = [1 - (student_upper_bound(*columns, DELTA) or 0) for columns in _turned(clusters)]
    assert np.mean(np.array(student) <= text.ratio) < 1 - 2 * DELTA


def _turned(clusters):
    return zip((clusters.counts - clusters.sums).T, clusters.counts.T, strict=True)


def test_bounds_hold_for_sequences_drawn_without_replacement():
    random = np.random.default_rng(2)
    sums, counts = TEXT.draw(300, 1, random)
    truth = sums.sum() / counts.sum()
    rows = random.permuted(np.tile(np.arange(300), (EXPERIMENTS, 1)), axis=1)[:, :100].T
    clusters = Clusters.of(sums[rows, 0], counts[rows, 0], TEXT.longest)
    assert (lower_bounds(clusters, DELTA) <= truth).mean() >= 1 - DELTA


def test_simultaneous_bounds_hold_at_all_layers_at_once():
    layers, runs = 8, EXPERIMENTS
    sums, counts = TEXT.draw_layers(60, layers, runs, np.random.default_rng(3))
    wide = Clusters.of(sums.reshape(60, -1), np.repeat(counts, layers, axis=1), TEXT.longest)
    bounds = lower_bounds(wide, 0.1 / layers).reshape(runs, layers)
    one = Clusters.of(sums[:, 0], counts[:, 0, None], TEXT.longest)
    assert simultaneous_lower_bounds(one, 0.1) == pytest.approx(bounds[0], abs=1e-12)
    assert simultaneous_upper_bounds(one, 0.1) == pytest.approx(
        1 - simultaneous_lower_bounds(one.complement(), 0.1), abs=1e-12
    )
    assert (bounds <= TEXT.ratio).all(axis=1).mean() >= 0.9
    naive = naive_lower(wide, 0.1 / layers).reshape(runs, layers)
    assert (naive <= TEXT.ratio).all(axis=1).mean() < 0.5


def test_holm_rejects_a_true_null_at_most_as_often_as_it_says():
    """Half of the layers are exactly at the level, half above it; layers share their sequences."""
    layers, runs, alpha = 8, EXPERIMENTS, 0.05
    sums, counts = TEXT.draw_layers(150, layers, runs, np.random.default_rng(4))
    wide = Clusters.of(sums.reshape(150, -1), np.repeat(counts, layers, axis=1), TEXT.longest)
    levels = np.where(np.arange(layers) < layers // 2, TEXT.ratio, TEXT.ratio - 0.12)
    p = p_values(wide, np.tile(levels, runs)).reshape(runs, layers)
    rejected = np.array([holm(row, alpha) for row in p])
    assert rejected[:, : layers // 2].any(axis=1).mean() <= alpha
    assert rejected[:, layers // 2 :].mean() > 0.5
    assert rejected.sum() > (p <= alpha / layers).sum()


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005], 0.05).tolist() == [True, False, False, True]
    assert holm([0.01, 0.02, 0.04], 0.05).tolist() == [True, True, True]
    assert holm([], 0.05).tolist() == []


def test_betting_is_the_sharpest_and_bounds_narrow_with_more_sequences():
    random = np.random.default_rng(5)
    sums, counts = TEXT.draw(4000, 20, random)
    gaps = []
    for sequences in (50, 200, 1000, 4000):
        clusters = Clusters.of(sums[:sequences], counts[:sequences], TEXT.longest)
        gaps.append([(clusters.ratios - lower_bounds(clusters, DELTA, method)).mean() for method in CLUSTERED])
    assert (np.diff(gaps, axis=0) < 0).all()
    assert (np.argmin(gaps, axis=1) == 0).all()
    errors = [stats.t.ppf(0.95, 3999) * column for column in _ratio_errors(sums, counts)]
    assert gaps[-1][0] < 2 * np.mean(errors)  # against the bound that is only approximately valid


def _ratio_errors(sums, counts):
    for above, below in zip(sums.T, counts.T, strict=True):
        residuals = above - above.sum() / below.sum() * below
        yield residuals.std() * np.sqrt(len(below)) / below.sum()


def test_all_in_agreement_is_nearly_the_exact_bound():
    """Sequences of one right decision: the exact bound is delta ** (1 / n)."""
    ones = Clusters.of(np.ones(100), np.ones(100), 1)
    exact = lower_bounds(ones, DELTA, "Clopper-Pearson")[0]
    assert exact == pytest.approx(DELTA**0.01)
    assert exact - 0.03 < lower_bounds(ones, DELTA)[0] <= exact


def test_clopper_pearson_covers_single_decisions_and_refuses_more():
    random = np.random.default_rng(6)
    hits = (random.random((60, EXPERIMENTS)) < 0.9).astype(float)
    singles = Clusters.of(hits, np.ones_like(hits), 1)
    lower = lower_bounds(singles, DELTA, "Clopper-Pearson")
    assert 1 - DELTA <= (lower <= 0.9).mean() < 1
    assert (lower >= lower_bounds(singles, DELTA)).mean() > 0.99
    assert lower == pytest.approx(naive_lower(singles, DELTA))
    for sums, counts, longest in (([2.0], [2], 2), ([0.5], [1], 1)):
        with pytest.raises(ValueError, match="one decision"):
            lower_bounds(Clusters.of(sums, counts, longest), DELTA, "Clopper-Pearson")


scores = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 30)), min_size=2, max_size=12)


def clusters_of(pairs, longest=30):
    share, counts = np.array(pairs).T
    return Clusters.of(share * counts, counts, longest)


@given(scores, st.sampled_from(CLUSTERED))
def test_bounds_are_ordered_and_monotone_in_the_confidence(pairs, method):
    clusters = clusters_of(pairs)
    lower = [lower_bounds(clusters, delta, method)[0] for delta in (0.001, 0.01, 0.1, 0.5)]
    assert all(first <= second for first, second in pairwise(lower))
    assert lower[0] >= 0
    if clusters.counts.sum():
        assert lower[-1] <= clusters.ratios[0] + 1e-12
        assert upper_bounds(clusters, 0.1, method)[0] >= clusters.ratios[0] - 1e-12
    else:
        assert lower[-1] == 0 and upper_bounds(clusters, 0.1, method)[0] == 1


@given(scores, st.sampled_from(CLUSTERED), st.randoms(use_true_random=False))
def test_the_order_of_sequences_and_the_unit_do_not_matter(pairs, method, random):
    shuffled = random.sample(pairs, len(pairs))
    bound = lower_bounds(clusters_of(pairs), 0.1, method)[0]
    assert lower_bounds(clusters_of(shuffled), 0.1, method)[0] == pytest.approx(bound, abs=1e-7)
    doubled = [(share, 2 * count) for share, count in pairs]
    assert lower_bounds(clusters_of(doubled, 60), 0.1, method)[0] == pytest.approx(bound, abs=1e-7)


@given(scores, st.floats(0.02, 1), st.floats(0.02, 1))
def test_the_capital_falls_with_the_level_and_is_at_most_one_at_the_estimate(pairs, first, second):
    clusters = clusters_of(pairs)
    low, high = sorted((first, second))
    assert betting_log_capital(clusters, high)[0] <= betting_log_capital(clusters, low)[0] + 1e-9
    if clusters.sums.sum():
        assert betting_log_capital(clusters, clusters.ratios)[0] <= 1e-9


@given(scores)
def test_the_capital_is_the_mean_of_products(pairs):
    clusters, level = clusters_of(pairs), 0.7
    gains = [
        np.prod(
            [1 + bet * (s / level - m) / 30 for s, m in zip(clusters.sums[:, 0], clusters.counts[:, 0], strict=True)]
        )
        for bet in bets(len(pairs))[0][:, 0]
    ]
    assert np.exp(betting_log_capital(clusters, level)[0]) == pytest.approx(np.mean(gains), rel=1e-9)


def test_the_capital_is_a_fair_game_at_the_level():
    """Over all outcomes of five sequences of one or three decisions, with the population's ratio as the level."""
    kinds = [(0, 1, 0.1), (1, 1, 0.3), (1, 3, 0.35), (3, 3, 0.25)]  # sum, count, probability
    grid = np.indices((4,) * 5).reshape(5, -1)
    sums, counts, chance = (np.array(column)[grid] for column in zip(*kinds, strict=True))
    level = sum(s * p for s, _, p in kinds) / sum(m * p for _, m, p in kinds)
    clusters = Clusters.of(sums, counts, 3)
    other = Clusters.of([[2.0], [3.0], [1.0]] * np.ones(sums.shape[1]), [[3], [3], [3]] * np.ones(sums.shape[1]), 3)
    for calibration in (None, other):
        capital = np.exp(betting_log_capital(clusters, level, calibration))
        assert (capital * chance.prod(axis=0)).sum() == pytest.approx(1)


def test_hoeffding_by_hand():
    clusters = Clusters.of([3.0, 5.0, 4.0] * 20, [4, 5, 6] * 20, 8)
    assert lower_bounds(clusters, 0.1, "Hoeffding")[0] == pytest.approx(0.8 - 8 / 5 * np.sqrt(np.log(10) / (2 * 60)))


@given(scores, st.floats(0.01, 0.99))
def test_bounds_and_p_values_are_the_same_test(pairs, level):
    clusters = clusters_of(pairs)
    bound = lower_bounds(clusters, 0.1)[0]
    if abs(bound - level) > 1e-9:
        assert (p_values(clusters, level)[0] <= 0.1) == (level < bound)


@given(scores)
def test_the_empirical_bernstein_bound_solves_its_inequality(pairs):
    clusters, delta = clusters_of(pairs), 0.5
    bound = lower_bounds(clusters, delta, "empirical Bernstein")[0]
    logs, n = np.log(2 / delta), len(pairs)

    def room(level):
        d = (clusters.sums[:, 0] - level * clusters.counts[:, 0]) / 30
        return d.mean() - np.sqrt(2 * d.var(ddof=1) * logs / n) - 7 * logs / (3 * (n - 1))

    if bound > 0:
        assert room(bound) == pytest.approx(0, abs=1e-7)
        assert room(bound / 2) > 0
    else:
        assert room(0.0) <= 1e-9


def test_bounds_are_the_same_each_time_and_layer_by_layer(experiments):
    few = Clusters(experiments.sums[:, :5], experiments.counts[:, :5], experiments.longest)
    for method in CLUSTERED:
        together = lower_bounds(few, DELTA, method)
        assert (together == lower_bounds(few, DELTA, method)).all()
        for layer in range(5):
            alone = Clusters.of(few.sums[:, layer], few.counts[:, layer], few.longest)
            assert lower_bounds(alone, DELTA, method)[0] == pytest.approx(together[layer], abs=1e-12)


def test_a_layer_without_decisions_or_a_sequence_is_promised_nothing():
    sums, counts = np.array([[0.0, 3.0], [0.0, 4.0]]), np.array([[0, 3], [0, 5]])
    clusters = Clusters.of(sums, counts, 5)
    for method in CLUSTERED:
        assert lower_bounds(clusters, DELTA, method)[0] == 0 and upper_bounds(clusters, DELTA, method)[0] == 1
        assert lower_bounds(Clusters.of(np.zeros((0, 2)), np.zeros((0, 2)), 5), DELTA, method).tolist() == [0, 0]
    assert np.isnan(clusters.ratios[0]) and clusters.ratios[1] == pytest.approx(7 / 8)
    assert clusters.means().ratios[1] == pytest.approx(0.9)
    assert set(GUARANTEES) == {*CLUSTERED, "Clopper-Pearson"}


def test_what_cannot_be_is_refused():
    with pytest.raises(VarError, match="sequence 1, layer 0: scores sum to 4 over 3 decisions"):
        Clusters.of([1, 4], [3, 3], 5)
    with pytest.raises(VarError, match="layer 0: scores sum to nan"):
        Clusters.of([np.nan], [3], 5)
    with pytest.raises(VarError, match="sequence 0, layer 1: 9 decisions, more than the 5"):
        Clusters.of([[1, 2]], [[3, 9]], 5)
    with pytest.raises(ValueError, match="delta"):
        lower_bounds(Clusters.of([1], [1], 1), 0.0)
