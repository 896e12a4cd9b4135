import numpy as np
import pytest
from scipy import stats

from var_core.errors import VarError
from var_core.policy.loss_bounds import clipped_loss_bound, student_upper_bound

DELTA = 0.05
EXPERIMENTS = 1000


@pytest.fixture(scope="module")
def loss_experiments():
    """Loss differences of 80 sequences in 1,000 experiments: skewed, unbounded, larger in longer sequences."""
    random = np.random.default_rng(7)
    tokens = random.choice([60, 250], size=(80, EXPERIMENTS))
    difference = random.gamma(0.5, 0.06, size=tokens.shape) * np.where(tokens == 250, 1.5, 1.0) - 0.01
    return difference, tokens


def _clipped_truth(high):
    """Mean over tokens of min(difference, high), by quadrature."""
    x = stats.gamma.ppf((np.arange(200_000) + 0.5) / 200_000, 0.5, scale=0.06)
    means = [np.minimum(x * factor - 0.01, high).mean() for factor in (1.0, 1.5)]
    return np.average(means, weights=[60, 250])


def test_the_clipped_loss_bound_holds_for_clipped_differences(loss_experiments):
    difference, tokens = loss_experiments
    clip = (-0.05, 0.25)
    bounds = np.array(
        [
            clipped_loss_bound(d * t, t, 256, clip, DELTA, "betting").bound
            for d, t in zip(difference.T[:300], tokens.T[:300], strict=True)
        ]
    )
    assert (bounds >= _clipped_truth(0.25)).mean() >= 1 - DELTA
    assert bounds.max() < 0.25
    one = clipped_loss_bound(difference[:, 0] * tokens[:, 0], tokens[:, 0], 256, clip, DELTA)
    assert one.above == (difference[:, 0] > 0.25).sum() and (one.low, one.high) == clip


def test_nothing_is_promised_beyond_the_clip():
    """One sequence in a thousand that costs a hundred nats: no sample of fifty shows it, and the clip says so."""
    usual = np.full(50, 0.01)
    bound = clipped_loss_bound(usual * 100, np.full(50, 100), 100, (-0.05, 0.25), DELTA)
    assert bound.bound < 0.05 and bound.above == 0
    caught = clipped_loss_bound(np.append(usual, 100.0) * 100, np.full(51, 100), 100, (-0.05, 0.25), DELTA)
    assert caught.above == 1 and bound.bound < caught.bound < 0.25


def test_the_student_bound_is_only_approximate(loss_experiments):
    difference, tokens = loss_experiments
    truth = _clipped_truth(np.inf)
    bounds = [student_upper_bound(d * t, t, DELTA) for d, t in zip(difference.T, tokens.T, strict=True)]
    coverage = (np.array(bounds) >= truth).mean()
    assert 0.85 < coverage < 1 - DELTA  # skewed: less than it says
    normal = np.random.default_rng(8).normal(0.02, 0.1, size=(EXPERIMENTS, 80))
    usual = np.array([student_upper_bound(row, np.ones(80), DELTA) for row in normal])
    assert (usual >= 0.02).mean() == pytest.approx(1 - DELTA, abs=0.02)
    assert usual[0] == pytest.approx(normal[0].mean() + stats.sem(normal[0]) * stats.t.ppf(0.95, 79))
    assert student_upper_bound([1.0], [1], DELTA) is None and student_upper_bound([0, 0], [0, 0], DELTA) is None


def test_an_empty_range_is_refused():
    with pytest.raises(VarError, match="low end"):
        clipped_loss_bound([1.0], [1], 1, (0.5, 0.5), DELTA)
