from itertools import combinations
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from var_core.errors import VarError
from var_core.evaluation.pass_at_k import compare, mcnemar_exact, mean_pass_at_k, pass_at_k


@st.composite
def counts(draw):
    samples = draw(st.integers(1, 9))
    return samples, draw(st.integers(0, samples)), draw(st.integers(1, samples))


@given(counts())
def test_pass_at_k_is_the_share_of_choices_with_a_pass(case):
    samples, passed, k = case
    choices = list(combinations([True] * passed + [False] * (samples - passed), k))
    assert pass_at_k(samples, passed, k) == pytest.approx(np.mean([any(choice) for choice in choices]), abs=1e-12)


def test_pass_at_k_does_not_overflow():
    exact = 1 - comb(20_000 - 40, 1000) / comb(20_000, 1000)
    assert pass_at_k(20_000, 40, 1000) == pytest.approx(exact, rel=1e-9)


@pytest.mark.parametrize("k", [0, 4])
def test_k_beyond_the_samples_is_refused(k):
    with pytest.raises(VarError, match=rf"pass@{k}: needs from 1 to 3"):
        pass_at_k(3, 1, k)


def test_mean_and_interval_over_tasks():
    passed = [3, 0, 1, 3, 2, 0, 0, 3, 1, 2, 0, 3]
    result = mean_pass_at_k(3, passed, 1)
    assert result.value == pytest.approx(sum(passed) / 36)
    spread = np.std(np.array(passed) / 3) / np.sqrt(12)
    assert result.low == pytest.approx(result.value - 1.96 * spread, abs=0.03)
    assert result.high == pytest.approx(result.value + 1.96 * spread, abs=0.03)
    assert mean_pass_at_k(3, passed, 1) == result
    assert mean_pass_at_k(3, passed, 2).value > result.value


def test_the_interval_covers_the_truth_as_often_as_it_says():
    random, covered = np.random.default_rng(0), 0
    for _ in range(300):
        solved = random.binomial(4, random.beta(1, 2, size=60))
        result = mean_pass_at_k(4, solved.tolist(), 1, confidence=0.9, resamples=500)
        covered += result.low <= 1 / 3 <= result.high
    assert 0.84 <= covered / 300 <= 0.96


def test_nothing_solved_is_not_certain_to_stay_so():
    none = mean_pass_at_k(1, [0] * 164, 1)
    assert (none.value, none.low) == (0, 0)
    assert none.high == pytest.approx(1 - 0.025 ** (1 / 164))
    all_solved = mean_pass_at_k(1, [1] * 164, 1)
    assert (all_solved.low, all_solved.high) == (pytest.approx(0.025 ** (1 / 164)), 1)
    same = compare(1, [0, 1] * 82, [0, 1] * 82, 1)
    assert (same.low, same.high) == (-none.high, none.high)


def test_few_tasks_give_no_interval():
    result = mean_pass_at_k(1, [0, 1, 1], 1)
    assert (result.value, result.low, result.high) == (pytest.approx(2 / 3), None, None)
    with pytest.raises(VarError, match="no tasks"):
        mean_pass_at_k(1, [], 1)


@pytest.mark.parametrize(
    ("only_first", "only_second", "p"),
    [(0, 0, 1), (5, 5, 1), (0, 5, 2 / 32), (1, 5, 14 / 64), (6, 0, 2 / 64), (2, 9, 2 * 67 / 2048)],
)
def test_mcnemar_against_binomial_sums_by_hand(only_first, only_second, p):
    assert mcnemar_exact(only_first, only_second) == pytest.approx(p)


def test_one_sample_is_compared_by_mcnemar():
    first, second = [1] * 6 + [0] * 5 + [1] * 9, [0] * 6 + [1] + [0] * 4 + [1] * 9
    result = compare(1, first, second, 1)
    assert (result.only_first, result.only_second) == (6, 1)
    assert result.p_value == pytest.approx(16 / 128)
    assert result.difference == pytest.approx(-5 / 20)
    assert result.low < -0.25 < result.high


def test_several_samples_are_compared_by_task():
    random = np.random.default_rng(1)
    ability = random.beta(1, 1, size=150)
    first, second = random.binomial(5, ability).tolist(), random.binomial(5, ability * 0.6).tolist()
    result = compare(5, first, second, 1)
    assert (result.p_value, result.only_first) == (None, None)
    assert result.low < -0.2 < result.high < 0
    alone = mean_pass_at_k(5, first, 1)
    assert result.high - result.low < alone.high - alone.low  # pairing takes out how hard the tasks are
    with pytest.raises(VarError, match="150 tasks against 149"):
        compare(5, first, second[1:], 1)
