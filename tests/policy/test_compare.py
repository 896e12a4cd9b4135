"""Held-out agreement at equal coverage: curves, and what one table gains over another."""

import numpy as np
import pytest

from policy_splits import FIRST_APART, LAYOUT, E, V, another, at_random, by_pair, by_token, fitted, sometimes_by_pair
from var_core.errors import VarError
from var_core.policy.calibration import PairChoice, calibrate
from var_core.policy.compare import COVERAGES, coverage_curve, gain_at_equal_coverage
from var_core.policy.tables import token_only

EVERY_PAIR = PairChoice(least_gain=-1.0)


def gains(folder, rule, seed=0, sequences=120, cluster=None, fitting=120, **more):
    """Of pairs over tokens, tested on text of its own."""
    tables = fitted(folder, rule, FIRST_APART, seed, fitting)
    _, calibration = another(folder, rule, seed + 1, fitting)
    _, test = another(folder, rule, seed + 2, sequences)
    token, best = (
        calibrate(each, LAYOUT, calibration, isolate_documents=True, choice=EVERY_PAIR)
        for each in (token_only(tables), tables)
    )
    cluster = np.arange(sequences) if cluster is None else cluster
    return gain_at_equal_coverage(token, best, LAYOUT, test, cluster, isolate_documents=True, **more)


def test_a_curve_is_what_to_expect_of_any_order_among_equals():
    random = np.random.default_rng(0)
    promised, score = random.integers(4, size=60) / 4, random.random(60)
    drawn = []
    for _ in range(4000):
        order = np.lexsort((random.random(60), -promised))
        drawn.append(score[order].cumsum()[[5, 29, 59]] / [6, 30, 60])
    found = coverage_curve(score, promised, np.array([0.1, 0.5, 1.0]))
    assert found == pytest.approx(np.mean(drawn, axis=0), abs=0.01)
    assert found[2] == pytest.approx(score.mean())
    assert coverage_curve(score, score)[0] == pytest.approx(np.sort(score)[-6:].mean())


def test_a_planted_pair_is_gained(tmp_path):
    for each in gains(tmp_path, by_pair):
        assert each.coverage.tolist() == COVERAGES.tolist()
        assert each.best[:-1] == pytest.approx(1.0, abs=0.02)
        assert (each.low > 0.3 if each.measure == "set_agreement" else each.low > 0.1).all()
        assert ((each.low <= each.gain) & (each.gain <= each.high)).all()
        assert (each.high - each.low < 0.2).all()


def test_where_only_some_decisions_go_by_pairs_all_coverage_but_the_last_is_gained_by_order(tmp_path):
    """A pair in 36 has other experts: tokens alone cover the 5 tokens that are certain, then lose it."""
    for each in gains(tmp_path, sometimes_by_pair, sequences=300):
        if each.measure == "set_agreement":
            assert each.gain[:8] == pytest.approx(0, abs=1e-9)
            assert each.gain[-1] == pytest.approx(1 / 36, abs=0.01) and each.low[-1] > 0


def test_nothing_is_gained_where_the_token_says_all(tmp_path):
    for each in gains(tmp_path, by_token):
        assert each.gain.tolist() == [0.0] * len(COVERAGES)
        assert each.low.tolist() == each.high.tolist() == [0.0] * len(COVERAGES)


def test_nothing_is_gained_on_random_routing(tmp_path):
    """Negative control: the gain is about nothing, and the intervals hold it as often as they say."""
    found, holding = [], []
    for seed in range(0, 60, 3):
        for each in gains(tmp_path, at_random(seed), seed, resamples=200, fitting=40):
            if each.measure == "set_agreement":
                found.append(each.gain)
                holding.append((each.low <= 0) & (each.high >= 0))
    assert np.abs(np.mean(found, axis=0)).max() < 0.01
    assert np.mean(holding) > 0.88


def test_clusters_that_are_alike_inside_widen_intervals(tmp_path):
    """Sequences go by the pair or at random, in blocks of forty."""
    random = np.random.default_rng(0)

    def rule(layer, previous, token):
        block = (np.arange(len(token)) // 40 % 2 == 0)[:, None]
        return np.where(block, by_pair(layer, previous, token), random.integers(E, size=token.shape))

    blocks = gains(tmp_path / "blocks", rule, sequences=480, cluster=np.arange(480) // 40)
    apart = gains(tmp_path / "apart", rule, sequences=480)
    for wide, narrow in zip(blocks, apart, strict=True):
        assert (wide.high - wide.low)[-1] > 1.5 * (narrow.high - narrow.low)[-1]


def test_few_clusters_have_no_interval_and_wrong_ones_are_refused(tmp_path):
    few = gains(tmp_path / "few", by_pair, cluster=np.arange(120) % 9)[0]
    assert np.isnan(few.low).all() and np.isfinite(few.gain).all()
    with pytest.raises(VarError, match="9 clusters were given for the 120 sequences"):
        gains(tmp_path / "wrong", by_pair, cluster=np.arange(9))


def test_decisions_without_a_row_come_last(tmp_path):
    """Tokens that the fitting split did not have are covered by the row for everything, after all others."""
    tables = fitted(tmp_path, by_token)
    tables.present[:, 3] = False
    tables.present[:, V:-1] = False
    _, traces = another(tmp_path, by_token, 1)
    ids, test = another(tmp_path, by_token, 2)
    made = calibrate(tables, LAYOUT, traces, isolate_documents=True)
    (each, *_) = gain_at_equal_coverage(made, made, LAYOUT, test, np.arange(len(ids)), isolate_documents=True)
    known = (ids != 3).mean()
    assert each.best[known >= COVERAGES].tolist() == [1.0] * int((known >= COVERAGES).sum())
    assert each.best[-1] < known + 0.01
