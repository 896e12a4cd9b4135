import json

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from var_core.errors import VarError
from var_core.evaluation.paired import (
    LossComparison,
    Margin,
    MarginTest,
    bca_interval,
    compare_losses,
    excess_over_margin,
    margin_test,
    margin_verdict,
)
from var_core.hypotheses.resampling import bootstrap_weights, generator
from var_core.models.perplexity import SequenceScores

EXPERIMENTS = 1000


def scores(nll, tokens):
    return SequenceScores(np.asarray(nll, dtype=np.float64), np.asarray(tokens, dtype=np.int64))


def text(sequences, random, cost, spread=0.1, skewed=False):
    """Plain and policy's losses whose true difference is `cost` nats a token in sequences of any length.

    Sequences differ in difficulty and in what the policy does to them; difficulty and cost are independent.
    """
    tokens = random.choice([60, 250], size=sequences)
    difficulty = random.gamma(40, 3.0 / 40, size=sequences)
    plain = tokens * (difficulty + random.normal(0, 1, size=sequences) / np.sqrt(tokens))
    effect = spread * (random.gamma(0.5, np.sqrt(2), size=sequences) - np.sqrt(0.5) if skewed
                       else random.normal(size=sequences))  # fmt: skip
    policy = plain + tokens * (cost + effect)
    return scores(policy, tokens), scores(plain, tokens)


def pieces(policy, plain, margin, resamples=199, seed=0):
    """What a comparison tests, without its intervals."""
    excess = excess_over_margin(policy.nll_sum, plain.nll_sum, plain.predicted, margin)
    centred = excess - excess.mean()
    weights = bootstrap_weights(len(excess), resamples, generator(seed, "test"))
    return margin_test(excess, weights @ centred, weights @ centred**2)


def test_numbers_are_those_of_the_definitions():
    policy, plain = text(40, np.random.default_rng(0), 0.02)
    result = compare_losses(policy, plain, resamples=500, seed=3)
    ours, theirs, tokens = policy.nll_sum, plain.nll_sum, plain.predicted
    assert result.difference == pytest.approx(policy.mean_nll - plain.mean_nll)
    assert result.perplexity_ratio == pytest.approx(policy.perplexity / plain.perplexity)
    assert result.relative == pytest.approx(policy.mean_nll / plain.mean_nll - 1)
    assert (result.plain_loss, result.policy_loss) == pytest.approx((plain.mean_nll, policy.mean_nll))
    assert (result.sequences, result.tokens) == (40, int(tokens.sum()))

    weights = bootstrap_weights(40, 500, generator(3, "paired losses")).astype(int)
    drawn = [np.repeat(np.arange(40), row) for row in weights]
    differences = np.array([(ours[rows].sum() - theirs[rows].sum()) / tokens[rows].sum() for rows in drawn])
    relatives = np.array([ours[rows].sum() / theirs[rows].sum() - 1 for rows in drawn])
    percentile = compare_losses(policy, plain, interval="percentile", resamples=500, seed=3)
    assert (percentile.difference_low, percentile.difference_high) == pytest.approx(
        np.quantile(differences, [0.025, 0.975])
    )
    assert (percentile.relative_low, percentile.relative_high) == pytest.approx(np.quantile(relatives, [0.025, 0.975]))
    assert percentile.perplexity_ratio_high == pytest.approx(np.exp(percentile.difference_high))

    excess = ours - 1.05 * theirs
    t = excess.mean() / stats.sem(excess)
    assert stats.ttest_1samp(excess, 0).statistic == pytest.approx(t)
    draws = np.array([(excess[rows].mean() - excess.mean()) / stats.sem(excess[rows]) for rows in drawn])
    expected = max(stats.t.cdf(t, 39), (1 + (draws <= t).sum()) / 501)
    assert result.p_within == pytest.approx(expected)
    assert result.p_beyond == pytest.approx(max(stats.t.sf(t, 39), (1 + (draws >= t).sum()) / 501))

    left_out = np.array([np.delete(ours - theirs, i).sum() / np.delete(tokens, i).sum() for i in range(40)])
    error = np.sqrt(39 / 40 * ((left_out - left_out.mean()) ** 2).sum()) * stats.t.ppf(0.975, 39)
    assert (result.jackknife_low, result.jackknife_high) == pytest.approx(
        (result.difference - error, result.difference + error)
    )


def test_bca_agrees_with_another_implementation():
    policy, plain = text(60, np.random.default_rng(1), 0.02, skewed=True)
    result = compare_losses(policy, plain, resamples=20_000)
    other = stats.bootstrap(
        (policy.nll_sum - plain.nll_sum, plain.predicted),
        lambda d, n, axis=-1: d.sum(axis=axis) / n.sum(axis=axis),
        paired=True, n_resamples=20_000, method="BCa", rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    width = other.high - other.low
    assert result.difference_low == pytest.approx(other.low, abs=0.03 * width)
    assert result.difference_high == pytest.approx(other.high, abs=0.03 * width)


def test_intervals_hold_as_often_as_they_say():
    hits = []
    for run in range(EXPERIMENTS):
        policy, plain = text(50, np.random.default_rng([2, run]), 0.02)
        result = compare_losses(policy, plain, confidence=0.9, resamples=300, seed=run)
        hits.append(
            [
                result.difference_low <= 0.02 <= result.difference_high,
                result.jackknife_low <= 0.02 <= result.jackknife_high,
                result.relative_low <= 0.02 / 3 <= result.relative_high,
            ]
        )
    assert np.mean(hits, axis=0) == pytest.approx(0.9, abs=0.03)


def test_intervals_from_resampled_tokens_are_too_narrow():
    """What a policy does to a sequence it does to all its tokens."""
    hits, widths = [], []
    for run in range(40):
        random = np.random.default_rng([12, run])
        sequence = np.repeat(np.arange(40), random.choice([40, 120], size=40))
        difference = 0.02 + 0.1 * random.normal(size=40)[sequence] + 0.3 * random.normal(size=len(sequence))
        plain = scores(np.bincount(sequence, random.gamma(3, size=len(sequence))), np.bincount(sequence))
        policy = scores(plain.nll_sum + np.bincount(sequence, difference), plain.predicted)
        clustered = compare_losses(policy, plain, confidence=0.9, resamples=300, seed=run)
        draws = bootstrap_weights(len(sequence), 300, random) @ difference / len(sequence)
        naive = np.quantile(draws, [0.05, 0.95])
        hits.append([clustered.difference_low <= 0.02 <= clustered.difference_high, naive[0] <= 0.02 <= naive[1]])
        widths.append([clustered.difference_high - clustered.difference_low, naive[1] - naive[0]])
    assert np.mean(hits, axis=0)[0] > 0.8 and np.mean(hits, axis=0)[1] < 0.65
    assert np.mean(widths, axis=0)[1] < 0.6 * np.mean(widths, axis=0)[0]


def at_the_margin(sequences, skewed):
    """P-values of experiments where the true policy loss is exactly 1.05 times the plain loss of 3 nats.

    Of being within and of being beyond the margin, and those of Student's t alone; shape (R, 2, 2).
    """
    p = []
    for run in range(EXPERIMENTS):
        policy, plain = text(sequences, np.random.default_rng([3, run]), 0.15, skewed=skewed)
        excess = excess_over_margin(policy.nll_sum, plain.nll_sum, plain.predicted, Margin())
        student = stats.ttest_1samp(excess, 0, alternative="less").pvalue
        p.append([pieces(policy, plain, Margin(), seed=run), (student, 1 - student)])
    return np.array(p)


@pytest.mark.parametrize("sequences", [20, 50])
def test_at_the_margin_it_is_called_within_or_beyond_at_most_as_often_as_alpha(sequences):
    p = at_the_margin(sequences, skewed=False)[:, 0]
    for alpha in (0.05, 0.2):
        error = np.sqrt(alpha * (1 - alpha) / EXPERIMENTS)
        assert ((p <= alpha).mean(axis=0) <= alpha + 2 * error).all()
        assert ((p <= alpha).mean(axis=0) >= alpha / 2).all()


def test_where_few_sequences_carry_the_cost_the_level_is_only_approximate():
    """No test of an unbounded mean holds its level there; ours comes nearer than Student's t alone."""
    ours, student = (at_the_margin(50, skewed=True)[:, :, 0] <= 0.05).mean(axis=0)
    assert 0.05 < ours < 0.09 < student
    many = (at_the_margin(200, skewed=True)[:, 0] <= 0.05).mean(axis=0)
    assert (many <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / EXPERIMENTS)).all()


def test_no_difference_is_found_to_be_within_the_margin_and_a_large_one_not():
    verdicts = {"none": [], "large": []}
    for run in range(100):
        random = np.random.default_rng([4, run])
        for name, cost in (("none", 0.0), ("large", 0.4)):
            test = pieces(*text(50, random, cost), Margin(), seed=run)
            verdicts[name].append(margin_verdict(test, 0.05))
    assert verdicts["none"].count("within the margin") >= 95
    assert verdicts["large"].count("not within the margin") >= 95


def test_a_policy_that_changes_nothing_costs_nothing():
    _, plain = text(20, np.random.default_rng(5), 0.0)
    result = compare_losses(plain, plain, resamples=500)
    assert result.difference == result.difference_low == result.difference_high == 0
    assert result.perplexity_ratio_low == result.perplexity_ratio_high == 1
    assert result.verdict == "within the margin"


def test_the_three_verdicts():
    assert margin_verdict(MarginTest(0.05, 0.9), 0.05) == "within the margin"
    assert margin_verdict(MarginTest(0.9, 0.05), 0.05) == "not within the margin"
    assert margin_verdict(MarginTest(0.2, 0.8), 0.05) == "inconclusive"


def test_margins_of_loss_and_of_perplexity():
    policy, plain, tokens = np.array([10.0, 20.0]), np.array([9.0, 19.0]), np.array([3.0, 5.0])
    assert excess_over_margin(policy, plain, tokens, Margin(0.1)) == pytest.approx([0.1, -0.9])
    assert excess_over_margin(policy, plain, tokens, Margin(0.1, "perplexity")) == pytest.approx(
        1 - np.log(1.1) * tokens
    )
    at_margin = scores(plain + np.log(1.1) * tokens, tokens)
    assert at_margin.perplexity / scores(plain, tokens).perplexity == pytest.approx(1.1)
    policy_scores, plain_scores = text(40, np.random.default_rng(6), 0.08, spread=0.01)
    assert compare_losses(policy_scores, plain_scores).verdict == "within the margin"  # 0.08 / 3 is below 5 %
    strict = compare_losses(policy_scores, plain_scores, Margin(0.05, "perplexity"))
    assert strict.verdict == "not within the margin"  # exp(0.08) is above 1.05


@given(st.lists(st.floats(-3, 3), min_size=10, max_size=30), st.floats(0.5, 4))
def test_the_test_ignores_the_unit_of_loss_and_turns_with_the_sign(excess, unit):
    values = np.array(excess)
    centred = values - values.mean()
    weights = bootstrap_weights(len(values), 50, generator(0, "unit"))
    sums, squares = weights @ centred, weights @ centred**2
    if values.std() < 1e-3:
        return
    test = margin_test(values, sums, squares)
    scaled = margin_test(values * unit, sums * unit, squares * unit**2)
    turned = margin_test(-values, -sums, squares)
    assert test == pytest.approx(scaled, abs=0.05)
    assert (turned.within, turned.beyond) == pytest.approx((test.beyond, test.within), abs=1e-9)
    assert test.within + test.beyond >= 1 - 1e-9


def test_with_fewer_than_ten_sequences_there_is_no_interval_and_no_verdict():
    policy, plain = text(9, np.random.default_rng(7), 0.0, spread=0.001)
    result = compare_losses(policy, plain)
    assert result.difference_low is None and result.p_within is None and result.jackknife_low is None
    assert result.verdict == "inconclusive" and "9 sequences are too few" in result.note
    ten = compare_losses(*text(10, np.random.default_rng(7), 0.0, spread=0.001))
    assert ten.verdict == "within the margin" and ten.note == ""


def test_skewed_costs_are_noted_where_sequences_are_few():
    for sequences, skewed, noted in ((50, True, True), (50, False, False), (400, True, False)):
        random = np.random.default_rng(13)
        result = compare_losses(*text(sequences, random, 0.02, spread=0.5, skewed=skewed), resamples=200)
        assert bool(result.note) == noted and (result.skewness > 1) == skewed
    excess = np.array([1.0, 1, 1, 1, 1, 1, 1, 1, 1, 11])
    plain = scores(np.full(10, 20.0), np.full(10, 10))
    result = compare_losses(scores(excess + 1.05 * plain.nll_sum, plain.predicted), plain, resamples=200)
    assert result.skewness == pytest.approx(stats.skew(excess))


def test_sequences_without_tokens_do_not_count():
    policy, plain = text(12, np.random.default_rng(8), 0.01)
    padded = [
        scores(np.append(each.nll_sum, [0, np.nan]), np.append(each.predicted, [0, 0])) for each in (policy, plain)
    ]
    assert compare_losses(*padded) == compare_losses(policy, plain)


def test_seeds_and_parts_decide_the_draws(monkeypatch):
    policy, plain = text(30, np.random.default_rng(9), 0.01)
    first = compare_losses(policy, plain, seed=1)
    assert first == compare_losses(policy, plain, seed=1) != compare_losses(policy, plain, seed=2)
    monkeypatch.setattr("var_core.evaluation.paired._CHUNK_VALUES", 30 * 7)
    assert compare_losses(policy, plain, seed=1).model_dump(
        exclude={"verdict", "note", "interval_method", "margin_kind"}
    ) == (pytest.approx(first.model_dump(exclude={"verdict", "note", "interval_method", "margin_kind"})))


def test_bca_of_what_cannot_be_resampled():
    assert bca_interval(0.0, np.zeros(50), np.zeros(20), 0.95) == (0, 0)
    assert bca_interval(5.0, np.arange(50.0) / 50, np.arange(20.0), 0.9) == pytest.approx(
        np.quantile(np.arange(50.0) / 50, [0.05, 0.95])
    )
    assert bca_interval(0.0, np.zeros(50), np.zeros(9), 0.95) is None
    assert bca_interval(0.0, np.array([0.0, np.nan]), np.zeros(20), 0.95) is None


def test_what_was_not_scored_on_the_same_tokens_is_refused():
    policy, plain = text(12, np.random.default_rng(10), 0.01)
    with pytest.raises(VarError, match="12 sequences with the policy and 11 without"):
        compare_losses(policy, plain.subset(np.arange(11)))
    with pytest.raises(VarError, match=r"sequence 4: \d+ tokens predicted with the policy and 7 without"):
        compare_losses(policy, scores(plain.nll_sum, np.where(np.arange(12) == 4, 7, plain.predicted)))
    with pytest.raises(VarError, match="sequence 2: the loss with the policy is NaN"):
        compare_losses(scores(np.where(np.arange(12) == 2, np.nan, policy.nll_sum), policy.predicted), plain)
    with pytest.raises(VarError, match="no sequence has a predicted token"):
        compare_losses(scores([0.0], [0]), scores([0.0], [0]))


def test_a_result_goes_through_json_and_into_a_table():
    result = compare_losses(*text(12, np.random.default_rng(11), 0.01))
    assert LossComparison.model_validate_json(result.model_dump_json()) == result
    assert all(
        value is None or isinstance(value, str | int | float) for value in json.loads(result.model_dump_json()).values()
    )
    assert set(LossComparison.model_json_schema()["properties"]["p_within"]) >= {"description"}
    table = pa.Table.from_pylist([result.model_dump()])
    with duckdb.connect() as connection:
        connection.register("comparison", table)
        row = connection.execute("SELECT verdict, tokens, p_within FROM comparison").fetchall()
    assert row == [(result.verdict, result.tokens, result.p_within)]
