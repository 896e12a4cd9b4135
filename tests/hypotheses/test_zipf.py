import warnings

import numpy as np
import powerlaw
import pytest

from var_core.hypotheses import zipf


def power_law_sample(seed=0, size=3000, exponent=2.1):
    return np.random.default_rng(seed).zipf(exponent, size)


def lognormal_sample(seed=0, size=3000):
    return np.ceil(np.exp(np.random.default_rng(seed).normal(3.0, 1.5, size))).astype(np.int64)


def test_line_through_an_exact_power_of_the_rank():
    line = zipf.rank_frequency_line((1e9 / np.arange(1, 500) ** 1.5).astype(np.int64))
    assert line.slope == pytest.approx(-1.5, abs=1e-3)
    assert line.r_squared == pytest.approx(1, abs=1e-6)
    assert np.isnan(zipf.rank_frequency_line(np.array([5, 5, 5])).r_squared)


def test_order_of_the_types_does_not_matter():
    sample = power_law_sample()
    shuffled = np.random.default_rng(1).permutation(sample)
    assert zipf.rank_frequency_line(sample) == zipf.rank_frequency_line(shuffled)
    assert zipf.fit_power_law(sample) == zipf.fit_power_law(shuffled)


@pytest.mark.parametrize("sample", [power_law_sample(), lognormal_sample()])
def test_the_fit_is_the_librarys(sample):
    """powerlaw tries every start of the tail; ours at most a hundred, so its distance can only be smaller."""
    ours = zipf.fit_power_law(sample)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        same_start = powerlaw.Fit(sample, discrete=True, xmin=ours.minimum, estimate_discrete=False, verbose=0)
        best = powerlaw.Fit(sample, discrete=True, estimate_discrete=False, verbose=0, xmin=(1, sample.max() // 4))
    assert ours.exponent == pytest.approx(same_start.power_law.alpha, abs=2e-3)
    assert ours.distance == pytest.approx(same_start.power_law.D, abs=5e-4)
    assert ours.distance <= best.D + 0.003


def test_exponent_is_recovered_within_its_error():
    errors = []
    for seed in range(40):
        values = power_law_sample(seed, size=1500, exponent=2.3)
        tail = values[values >= 1]
        fit = zipf.fit_power_law(tail)
        errors.append((fit.exponent - 2.3) / fit.error)
    assert abs(np.mean(errors)) < 0.6
    assert 0.6 < np.std(errors) < 1.7


def test_a_power_law_is_not_ruled_out_and_a_lognormal_is_at_least_undecided():
    sample = power_law_sample()
    fit = zipf.fit_power_law(sample)
    distances = zipf.simulated_distances(sample, fit, 30, np.random.default_rng(1))
    assert (distances >= fit.distance).mean() > 0.1
    line = zipf.rank_frequency_line(lognormal_sample())
    assert line.r_squared > 0.8  # so the straight line alone would call a lognormal Zipfian
    comparison = zipf.compare_with_lognormal(lognormal_sample(), 1)
    assert comparison.ratio < -5 and comparison.p < 1e-6
    tail = zipf.compare_with_lognormal(lognormal_sample(), zipf.fit_power_law(lognormal_sample()).minimum)
    assert tail.ratio < 0 or tail.p > 0.05


def test_the_likelihood_ratio_does_not_reject_a_true_power_law():
    for seed in range(3):
        assert zipf.compare_with_lognormal(power_law_sample(seed), 1).ratio > -1.96


def test_goodness_of_fit_rules_out_what_is_no_power_law_anywhere():
    uniform = np.random.default_rng(2).integers(1, 400, size=3000)
    fit = zipf.fit_power_law(uniform)
    distances = zipf.simulated_distances(uniform, fit, 30, np.random.default_rng(3))
    assert (distances >= fit.distance).mean() < 0.1


def test_goodness_of_fit_p_is_not_small_too_often_for_true_power_laws():
    p = []
    for seed in range(30):
        sample = power_law_sample(seed, size=400, exponent=1.9)
        fit = zipf.fit_power_law(sample)
        distances = zipf.simulated_distances(sample, fit, 19, np.random.default_rng(seed))
        p.append((1 + (distances >= fit.distance).sum()) / 20)
    assert np.mean(np.array(p) <= 0.1) <= 0.25
    assert np.mean(np.array(p) <= 0.5) == pytest.approx(0.5, abs=0.3)


def test_too_little_to_fit():
    assert zipf.fit_power_law(np.arange(1, 20)) is None
    assert zipf.fit_power_law(np.full(500, 7)) is None
    assert zipf.compare_with_lognormal(np.full(500, 7), 1) is None
    assert zipf.compare_with_lognormal(np.arange(1, 20), 1) is None


def test_distance_is_the_largest_gap_at_any_whole_number():
    random = np.random.default_rng(5)
    crowded = np.append(np.full(11, 3), 100)  # the gap is largest just above a frequency that occurs
    for exponent, tail in (
        (1.4, crowded),
        (2.0, 3 + random.integers(0, 30, size=12) ** 2),
        (3.5, 3 + random.integers(0, 30, size=12) ** 2),
    ):
        values, types = np.unique(tail, return_counts=True)
        at_least = types[::-1].cumsum()[::-1]
        grid = np.arange(values[0], values[-1] + 2)
        model = zipf.zeta(exponent, grid.astype(float)) / zipf.zeta(exponent, float(values[0]))
        empirical = (tail[None, :] >= grid[:, None]).mean(axis=1)
        assert zipf._distance(values, at_least, exponent) == pytest.approx(np.abs(model - empirical).max())


def test_simulated_samples_repeat_the_body_and_draw_the_tail():
    body = np.array([1, 1, 2, 2, 2, 2])
    fit = zipf.PowerLaw(exponent=2.0, error=0.01, minimum=5, distance=0.01, tail=4)
    table = zipf.zeta(2.0, 5 + np.arange(1 << 12, dtype=float)) / zipf.zeta(2.0, 5)
    random = np.random.default_rng(6)
    drawn = np.concatenate([zipf._simulate(body, fit, table, random) for _ in range(500)])
    assert len(drawn) == 500 * 10
    assert (drawn >= 5).mean() == pytest.approx(0.4, abs=0.03)
    assert (drawn == 1).mean() == pytest.approx(0.2, abs=0.03)
    assert not ((drawn > 2) & (drawn < 5)).any()


def test_simulated_tails_follow_the_fitted_law():
    fit = zipf.PowerLaw(exponent=1.8, error=0.01, minimum=3, distance=0.01, tail=1000)
    table = zipf.zeta(1.8, 3 + np.arange(1 << 12, dtype=float)) / zipf.zeta(1.8, 3)
    drawn = zipf._sample(fit, table, 200_000, np.random.default_rng(4))
    assert drawn.min() == 3
    for value in (4, 10, 100, 4000, 20_000, 100_000):  # the last two are beyond the table
        expected = zipf.zeta(1.8, value) / zipf.zeta(1.8, 3)
        assert (drawn >= value).mean() == pytest.approx(expected, abs=5 * np.sqrt(expected / 200_000))
