import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from var_core.statistics.measures import selection_entropy
from var_core.statistics.rarefaction import rarefied_selection_entropy


def counts_of(sets, experts):
    return np.bincount(sets.ravel(), minlength=experts)[None]


def random_sets(random, decisions, p, top_k):
    return np.argsort(-np.log(p) - random.gumbel(size=(decisions, len(p))), axis=1)[:, :top_k]


def test_it_is_the_mean_over_random_choices_of_whole_decisions():
    random = np.random.default_rng(0)
    sets = random_sets(random, 23, np.array([0.4, 0.3, 0.1, 0.1, 0.05, 0.05]), 2)
    chosen, n = counts_of(sets, 6), np.array([23])
    drawn = np.stack([counts_of(sets[random.permutation(23)[:7]], 6)[0] for _ in range(20_000)])
    expected = selection_entropy(drawn)
    exact = rarefied_selection_entropy(chosen, n, 7)[0]
    assert exact == pytest.approx(expected.mean(), abs=4 * expected.std() / np.sqrt(20_000))
    assert exact < selection_entropy(chosen)[0]


@given(st.integers(1, 40), st.integers(1, 3), st.integers(4, 9), st.integers(0, 10_000))
def test_all_occurrences_give_the_plug_in_and_one_gives_ln_k(n, top_k, experts, seed):
    random = np.random.default_rng(seed)
    chosen = counts_of(np.argsort(random.random((n, experts)), axis=1)[:, :top_k], experts)
    assert rarefied_selection_entropy(chosen, np.array([n]), n) == pytest.approx(selection_entropy(chosen), abs=1e-9)
    assert rarefied_selection_entropy(chosen, np.array([n]), 1) == pytest.approx([np.log(top_k)], abs=1e-9)


@given(st.integers(2, 60), st.integers(0, 10_000))
def test_more_occurrences_never_lower_the_expected_entropy(n, seed):
    random = np.random.default_rng(seed)
    chosen = counts_of(np.argsort(random.random((n, 8)), axis=1)[:, :2], 8)
    entropies = [rarefied_selection_entropy(chosen, np.array([n]), kept)[0] for kept in range(1, n + 1, 5)]
    assert (np.diff(entropies) >= -1e-10).all()


def test_types_with_too_few_occurrences_have_no_value():
    chosen, n = np.array([[9, 0, 9], [10, 10, 0], [0, 0, 0]]), np.array([9, 10, 0])
    entropy = rarefied_selection_entropy(chosen, n, 10)
    assert np.isnan(entropy[[0, 2]]).all() and entropy[1] == pytest.approx(np.log(2))
    assert np.isnan(rarefied_selection_entropy(chosen, n, 100)).all()


def test_large_counts_stay_accurate():
    n = 3_000_000
    chosen = np.array([[n, n // 2, n - n // 2, 0]])
    limit = rarefied_selection_entropy(np.array([[2, 1, 1, 0]]) * 10_000, np.array([20_000]), 10)[0]
    assert rarefied_selection_entropy(chosen, np.array([n]), 10)[0] == pytest.approx(limit, abs=1e-3)


def test_rarefying_removes_the_correlation_with_frequency_that_the_plug_in_invents():
    """A router that ignores the token: every type has the same true entropy, however often it occurs."""
    random = np.random.default_rng(1)
    load = np.array([0.25, 0.2, 0.15, 0.12, 0.1, 0.08, 0.06, 0.04])
    n = np.maximum((20_000 / np.arange(1, 1200)).astype(int), 10)
    counts = np.stack([counts_of(random_sets(random, size, load, 2), 8)[0] for size in n])
    rarefied = rarefied_selection_entropy(counts, n, 10)
    assert spearmanr(n, selection_entropy(counts))[0] > 0.35
    assert abs(spearmanr(n, rarefied)[0]) < 0.1  # what is left is skewness, not bias:
    rare, frequent = rarefied[n < 20], rarefied[n > 100]
    assert rare.mean() == pytest.approx(frequent.mean(), abs=4 * rare.std() / np.sqrt(len(rare)))


def test_rarefying_keeps_a_correlation_that_is_there():
    random = np.random.default_rng(2)
    n = np.maximum((20_000 / np.arange(1, 600)).astype(int), 15)
    counts = []
    for rank, size in enumerate(n):
        favourite = 0.95 - 0.75 * rank / len(n)  # the more frequent, the more consistent
        p = np.append(favourite, np.full(7, (1 - favourite) / 7))
        counts.append(counts_of(random_sets(random, size, p, 1), 8)[0])
    assert spearmanr(n, rarefied_selection_entropy(np.stack(counts), n, 10))[0] < -0.8
