import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from var_core.hypotheses.nulls import spearman
from var_core.hypotheses.resampling import (
    Interval,
    bootstrap_weights,
    generator,
    jackknife_interval,
    monte_carlo_p,
    percentile_interval,
    ratio_interval,
    ratio_intervals,
)


def left_out_means(groups):
    return (groups.sum() - groups) / (len(groups) - 1)


def test_jackknife_of_a_mean_is_the_t_interval():
    groups = np.array([3.0, 5.0, 4.0, 8.0, 6.0])
    interval = jackknife_interval(groups.mean(), left_out_means(groups), 0.95)
    expected = stats.t.interval(0.95, 4, loc=groups.mean(), scale=stats.sem(groups))
    assert interval == pytest.approx(expected)


def test_jackknife_covers_a_correlation_as_often_as_it_says():
    random = np.random.default_rng(0)
    truth, shards, types = 0.6, 8, 40
    hits = 0
    for _ in range(400):
        # Frequency and quantity are sums over shards, and the noise is the shards' own.
        frequency = random.normal(size=types)
        quantity = truth * frequency + np.sqrt(1 - truth**2) * random.normal(size=types)
        noisy = quantity + random.normal(scale=0.8, size=(shards, types))
        replicates = [spearman(frequency, (noisy.sum(axis=0) - one) / (shards - 1)) for one in noisy]
        interval = jackknife_interval(spearman(frequency, noisy.mean(axis=0)), np.array(replicates), 0.9, "fisher_z")
        # What the shards' noise blurs is the correlation with the noiseless quantity, slightly attenuated.
        attenuated = spearman(frequency, quantity) / np.sqrt(1 + 0.8**2 / shards)
        hits += interval.low <= attenuated <= interval.high
    assert hits / 400 >= 0.9 - 0.04


def test_jackknife_covers_a_share_as_often_as_it_says():
    random = np.random.default_rng(1)
    hits = 0
    for _ in range(500):
        shares = random.beta(9, 3, size=8)
        interval = jackknife_interval(shares.mean(), left_out_means(shares), 0.9, "logit")
        hits += interval.low <= 9 / 12 <= interval.high
    assert 0.9 - 0.04 <= hits / 500 <= 0.9 + 0.04


@given(st.lists(st.floats(0, 1), min_size=2, max_size=12), st.sampled_from(["identity", "fisher_z", "logit"]))
def test_transformed_intervals_stay_in_range_and_hold_the_statistic(values, scale):
    values = np.array(values)
    interval = jackknife_interval(float(values.mean()), values, 0.95, scale)
    assert interval.low <= values.mean() + 1e-9 and interval.high >= values.mean() - 1e-9
    if scale != "identity":
        assert interval.low >= -1 and interval.high <= 1


def test_no_jackknife_without_two_groups_or_with_undefined_values():
    assert jackknife_interval(0.5, np.array([0.4]), 0.95) is None
    assert jackknife_interval(0.5, np.array([0.4, np.nan, 0.5]), 0.95) is None
    assert jackknife_interval(float("nan"), np.array([0.4, 0.5]), 0.95) is None


def test_bootstrap_over_documents_covers_where_resampling_decisions_would_not():
    """Decisions of a document agree with each other, so it is documents that must be resampled."""
    random = np.random.default_rng(2)
    documents, hits, naive_hits, runs = 60, 0, 0, 300
    for run in range(runs):
        n = random.integers(50, 400, size=documents).astype(float)
        agreed = random.binomial(n.astype(int), random.beta(6, 4, size=documents)).astype(float)
        weights = bootstrap_weights(documents, 300, generator(run, "coverage"))
        interval = ratio_interval(agreed, n, weights, 0.9)
        hits += interval.low <= 0.6 <= interval.high
        naive = stats.norm.interval(0.9, agreed.sum() / n.sum(), np.sqrt(0.24 / n.sum()))
        naive_hits += naive[0] <= 0.6 <= naive[1]
    assert hits / runs >= 0.9 - 0.05
    assert naive_hits / runs < 0.5


def test_ratios_that_share_their_resamples_equal_single_ones():
    random = np.random.default_rng(3)
    parts, wholes = random.random((30, 4)), 1 + random.random((30, 4))
    weights = bootstrap_weights(30, 200, random)
    assert (weights.sum(axis=1) == 30).all()
    together = ratio_intervals(parts, wholes, weights, 0.95)
    for column in range(4):
        assert ratio_interval(parts[:, column], wholes[:, column], weights, 0.95) == pytest.approx(together[:, column])


def test_no_bootstrap_from_a_handful_of_documents_or_nothing_to_divide_by():
    ones = np.ones(9)
    assert ratio_interval(ones, ones, bootstrap_weights(9, 100, np.random.default_rng(0)), 0.95) is None
    weights = bootstrap_weights(20, 100, np.random.default_rng(0))
    assert ratio_interval(np.zeros(20), np.zeros(20), weights, 0.95) is None
    assert np.isnan(ratio_intervals(np.zeros((20, 1)), np.zeros((20, 1)), weights, 0.95)).all()
    assert bootstrap_weights(0, 5, np.random.default_rng(0)).shape == (5, 0)
    assert percentile_interval(np.array([1.0, np.nan]), 100, 0.95) is None


def test_monte_carlo_p_counts_the_observed_as_one_draw():
    null = np.array([0.1, 0.2, 0.3, 0.4])
    assert monte_carlo_p(0.35, null, "above") == pytest.approx(2 / 5)
    assert monte_carlo_p(0.3, null, "above") == pytest.approx(3 / 5)
    assert monte_carlo_p(0.15, null, "below") == pytest.approx(2 / 5)
    assert monte_carlo_p(9.0, null, "above") == pytest.approx(1 / 5)
    assert monte_carlo_p(float("nan"), null, "above") is None
    assert monte_carlo_p(0.3, np.array([np.nan]), "above") is None


def test_monte_carlo_p_is_uniform_under_the_null():
    random = np.random.default_rng(4)
    p = np.array([monte_carlo_p(random.normal(), random.normal(size=39), "above") for _ in range(2000)])
    assert (p <= 0.1).mean() == pytest.approx(0.1, abs=0.025)
    assert (p <= 0.5).mean() == pytest.approx(0.5, abs=0.04)


def test_each_purpose_has_a_generator_of_its_own():
    assert generator(0, "a", 1).random() == generator(0, "a", 1).random()
    different = {generator(seed, *purpose).random() for seed in (0, 1) for purpose in (("a", 1), ("a", 2), ("b", 1))}
    assert len(different) == 6


def test_interval_within_possible_values():
    assert Interval(-0.2, 1.3).within(0, 1) == (0, 1)
