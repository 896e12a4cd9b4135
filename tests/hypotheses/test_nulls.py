import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from var_core.hypotheses.data import ExpertCounts
from var_core.hypotheses.nulls import OCCURRENCES_DRAWN, draw_sets, load_only_counts, permuted_spearman, spearman


@given(st.integers(0, 10_000), st.integers(2, 12), st.data())
@settings(max_examples=30)
def test_drawn_sets_hold_distinct_experts_at_the_wanted_rate(seed, experts, data):
    random = np.random.default_rng(seed)
    top_k = data.draw(st.integers(1, experts))
    choices = np.argsort(-random.gumbel(size=(500, experts)) - np.linspace(0, 3, experts), axis=1)[:, :top_k]
    inclusion = np.bincount(choices.ravel(), minlength=experts) / 500
    sets = draw_sets(inclusion, 8000, random)
    assert sets.shape == (8000, top_k)
    assert all(len(set(row)) == top_k for row in sets[:200].tolist())
    drawn = np.bincount(sets.ravel(), minlength=experts) / 8000
    assert drawn == pytest.approx(inclusion, abs=5 * 0.5 / np.sqrt(8000))


def real_counts(random, types=50, experts=8, top_k=2):
    n = random.integers(0, 400, size=types)
    n[0] = OCCURRENCES_DRAWN + 5000
    chosen, first = np.zeros((types, experts), dtype=np.int64), np.zeros((types, experts), dtype=np.int64)
    for token_type, size in enumerate(n):
        favourites = random.normal(size=experts) * 2
        sets = np.argsort(-favourites - random.gumbel(size=(size, experts)), axis=1)[:, :top_k]
        chosen[token_type] = np.bincount(sets.ravel(), minlength=experts)
        first[token_type] = np.bincount(sets[:, 0], minlength=experts)
    return ExpertCounts(n, chosen, first)


def test_the_null_keeps_occurrences_and_load_and_drops_the_token():
    random = np.random.default_rng(0)
    counts = real_counts(random)
    draws = list(load_only_counts(counts, 40, random))
    load = counts.chosen.sum(axis=0) / counts.n.sum()
    drawn = np.minimum(counts.n, OCCURRENCES_DRAWN)
    for draw in draws:
        assert (draw.chosen.sum(axis=1) == 2 * drawn).all()
        assert (draw.chosen <= drawn[:, None]).all()  # an expert is at most once in a decision
        assert (draw.first.sum(axis=1) == drawn).all()
    mean = np.mean([draw.chosen for draw in draws], axis=0)
    for token_type in np.flatnonzero(drawn > 100):
        assert mean[token_type] / drawn[token_type] == pytest.approx(load, abs=0.05)
    assert np.abs(counts.chosen[1] / counts.n[1] - load).max() > 0.2  # the real counts were not like that


def test_the_null_can_be_drawn_for_some_types_only():
    random = np.random.default_rng(1)
    counts = real_counts(random)
    wanted = np.array([3, 7])
    draw = next(load_only_counts(counts, 1, random, wanted))
    assert draw.chosen.shape == (2, 8)
    assert draw.n.tolist() == counts.n[wanted].tolist()


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=3, max_size=30))
def test_spearman_is_scipys(pairs):
    x, y = np.array(pairs, dtype=float).T
    ours = spearman(x, y)
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        assert np.isnan(ours)
    else:
        assert ours == pytest.approx(spearmanr(x, y)[0], abs=1e-12)


def test_spearman_of_too_few_is_undefined():
    assert np.isnan(spearman(np.array([1.0, 2.0]), np.array([1.0, 2.0])))


def test_permuted_correlations_have_mean_zero_and_the_known_spread():
    random = np.random.default_rng(2)
    x = random.normal(size=200)
    null = permuted_spearman(x, x + 0.1 * random.normal(size=200), 2000, random)
    assert null.mean() == pytest.approx(0, abs=0.01)
    assert null.std() == pytest.approx(1 / np.sqrt(199), rel=0.1)
