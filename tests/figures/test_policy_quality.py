import dataclasses

import numpy as np
import pytest

from policies_to_draw import SimulatedEvaluation, open_sources
from var_core.evaluation import names
from var_core.figures.policies import NOTHING, Evaluation
from var_core.figures.policy_quality import close_up, draw, margin_in_nats, threshold_curve


def panels(run):
    return run.drawing("policy_quality").figure.axes


def points(panel, label):
    return next((line.get_xydata() for line in panel.lines if line.get_label() == label), None)


def expected(run, *arms):
    evaluation = Evaluation(run.sources)
    rows = [[evaluation.find(arm, name).statistic for name in ("coverage", "loss_difference")] for arm in arms]
    return np.array(rows)


def test_the_curve_goes_through_the_policy_and_all_thresholds_by_coverage(evaluated):
    drawn = points(panels(evaluated)[0], "policy by threshold of agreement")
    arms = [arm for arm in Evaluation(evaluated.sources).arms if arm.startswith(names.THRESHOLD)]
    assert len(drawn) == 4 == len(arms) + 1 and (np.diff(drawn[:, 0]) >= 0).all()
    own = expected(evaluated, names.POLICY, *arms)
    np.testing.assert_allclose(drawn, own[np.argsort(own[:, 0])])


@pytest.mark.parametrize(
    ("label", "arms"),
    [
        ("policy", (names.POLICY,)),
        ("without its cache", (names.TABLES_ONLY,)),
        ("classic predicate", (names.CLASSIC,)),
        ("token table", (names.TOKEN_TABLE,)),
        ("control: same experts for all", (names.GLOBAL_TABLE + names.SAME_COVERAGE, names.GLOBAL_TABLE)),
        ("control: random experts", (names.RANDOM_EXPERTS + names.SAME_COVERAGE, names.RANDOM_EXPERTS)),
    ],
)
def test_each_arm_stands_at_its_coverage_and_cost(evaluated, label, arms):
    np.testing.assert_allclose(points(panels(evaluated)[0], label), expected(evaluated, *arms))


def test_intervals_are_those_of_the_table(evaluated):
    found = Evaluation(evaluated.sources).find(names.RANDOM_EXPERTS, "loss_difference")
    bars = [path.vertices[:, 1] for part in panels(evaluated)[0].collections for path in part.get_paths()]
    assert any(np.allclose(bar, [found.low, found.high]) for bar in bars)


def test_the_margin_is_a_share_of_the_plain_loss_or_of_the_perplexity(evaluated):
    evaluation, sources = Evaluation(evaluated.sources), evaluated.sources
    plain = evaluation.find(names.PLAIN, "loss").statistic
    assert margin_in_nats(evaluation, sources) == pytest.approx(0.05 * plain)
    other = dataclasses.replace(sources, evaluation={"margin_kind": "perplexity", "margin": 0.1})
    assert margin_in_nats(evaluation, other) == pytest.approx(np.log(1.1))
    line = points(panels(evaluated)[0], f"margin, {0.05 * plain:.3f} nats")
    assert line[0, 1] == pytest.approx(0.05 * plain)


def test_close_up_the_policy_is_seen_and_controls_are_left_out(evaluated):
    close = panels(evaluated)[1]
    low, high = close.get_ylim()
    evaluation = Evaluation(evaluated.sources)
    curve = threshold_curve(evaluation)
    margin = margin_in_nats(evaluation, evaluated.sources)
    assert all(low < point.value < high for point in curve if point.value < 3 * margin)
    assert points(close, "control: random experts") is None
    assert [text.get_text() for text in close.texts if text.get_text() != "b"] == ["0.9", "0.5", "0"]


def test_a_margin_that_dwarfs_the_policy_is_not_in_the_close_up(evaluated):
    evaluation = Evaluation(evaluated.sources)
    curve = [point for point in threshold_curve(evaluation) if point.value < 0.1]
    assert close_up(evaluation, curve, 0.175)[1] > 0.175
    cheap = dataclasses.replace(evaluated.sources, evaluation={"margin": 0.8})
    margin = margin_in_nats(evaluation, cheap)
    assert margin > 2.5
    assert draw(cheap).figure.axes[1].get_ylim()[1] < margin


def test_the_caption_gives_the_numbers_and_the_verdict(evaluated):
    evaluation, caption = Evaluation(evaluated.sources), evaluated.drawing("policy_quality").caption
    assert evaluation.find(names.POLICY, "coverage").shares in caption
    assert "within the margin (p" in caption and "95 %" in caption


def test_without_intervals_and_other_arms_it_is_inconclusive(few_arms, smallest):
    assert "Random experts" not in few_arms.drawing("policy_quality").caption
    assert "inconclusive" in smallest.drawing("policy_quality").caption
    assert Evaluation(smallest.sources).find(names.POLICY, "loss_difference").low is None


def test_what_was_not_evaluated_is_nothing(few_arms):
    assert Evaluation(few_arms.sources).find(names.CLASSIC, "coverage") is NOTHING


def test_an_arm_that_replaces_nothing_stands_at_the_left(drawn_texts):
    sources = open_sources(SimulatedEvaluation(arms=(names.PLAIN, names.POLICY, "agreement_1")))
    assert drawn_texts(draw(sources).figure)
