"""What is chosen of a measured front, what its estimates are worth, and what is said of it."""

import numpy as np
import pyarrow as pa
import pytest

from var_core.config.policy import EvaluationConfig, PolicyConfig
from var_core.config.tuning import TuningConfig
from var_core.evaluation import names
from var_core.evaluation.results import ArmResult, Clusters, Row, evaluation_rows
from var_core.models.perplexity import SequenceScores
from var_core.tuning.choose import choose, trust
from var_core.tuning.points import Point
from var_core.tuning.report import differences, optimism
from var_core.tuning.trials import FRONT

CONFIG = EvaluationConfig(bootstrap=200)


def rows(name, share, loss, half=0.001):
    made = {"learned_share": (share, 0.01), "loss_difference": (loss, half), "relative_loss": (loss / 4, half / 4)}
    return [
        Row(name, None, measure, value, value - wide, value + wide, 0.95, 100, "clusters")
        for measure, (value, wide) in made.items()
    ]


def columns(points):
    share, loss = np.array(points).T
    return {"learned_share": share, "loss_difference": loss, "relative_loss": loss / 4}


POINTS = [(0.0, 0.4), (0.1, 0.05), (0.5, 0.02), (0.9, 0.0)]
"""Learned share and loss difference of points of a front; its knee is the second."""


def chosen(points=POINTS, worst=None, **settings):
    config = TuningConfig(**({"max_learned_share": None, "max_relative_loss": 0.05} | settings))
    return choose(columns(points), columns(points if worst is None else worst), config)


def test_the_knee_of_what_meets_the_constraints_is_chosen():
    assert chosen().place == 1 and chosen().within
    assert chosen(max_relative_loss=0.01).place == 2
    assert chosen(max_relative_loss=None).place == 1
    assert chosen(max_learned_share=0.05, max_relative_loss=None).place == 0


def test_the_fewest_learned_decisions_that_meet_them():
    assert chosen(choose="fewest_learned").place == 1
    assert chosen(choose="fewest_learned", max_relative_loss=0.01).place == 2
    assert chosen(choose="fewest_learned", max_relative_loss=None).place == 0


def test_a_single_objective_is_made_least_of_what_meets_them():
    assert chosen(objectives=["loss_difference"], max_learned_share=0.6).place == 2
    assert chosen(objectives=["loss_difference"]).place == 3
    assert chosen(objectives=["learned_share"]).place == 1


def test_constraints_are_judged_by_the_upper_ends():
    assert chosen(choose="fewest_learned", worst=[(0.0, 0.5), (0.2, 0.3), (0.6, 0.1), (0.95, 0.01)]).place == 2


def test_where_nothing_meets_them_the_margin_of_the_loss_comes_first_and_it_is_said():
    found = chosen(max_learned_share=0.05)
    assert found.place == 1 and not found.within and "of those within the loss margin" in found.rule
    found = chosen([(0.1, 0.9), (0.12, 0.4)], max_learned_share=0.05)
    assert found.place == 1 and not found.within and "no point is within the loss margin" in found.rule


def arm(name, learned, loss, seed=0):
    random = np.random.default_rng(seed)
    predicted = np.full(40, 100)
    nll = 400 + random.normal(0, 20, 40) + 100 * np.asarray(loss)
    ways = np.zeros((3, 40, 2, 3))
    ways[0, :, :, 0], ways[0, :, :, 1] = 100 * learned, 100 * (1 - learned)
    return ArmResult(name, SequenceScores(nll, predicted), np.arange(40), np.full(40, "d"), ways)


def trusted(estimated, losses, seed=0):
    points = [
        Point(f"front-{place}", place, PolicyConfig(), {"loss_difference": float(each), "learned_share": place / 9})
        for place, each in enumerate(estimated)
    ]
    arms = [arm(point.name, 0.5, loss, seed) for point, loss in zip(points, losses, strict=True)]
    plain = arm(names.PLAIN, 1, 0, seed)
    return trust(points, plain, arms, Clusters(plain.cluster, CONFIG), TuningConfig())


def test_trust_is_the_rank_correlation_of_what_was_measured_with_what_was_estimated():
    found = trusted([0.1, 0.2, 0.3, 0.4], [0.2, 0.3, 0.5, 0.9])
    assert found["spearman"] == pytest.approx(1) and found["low"] == pytest.approx(1) and found["points"] == 4
    assert trusted([0.1, 0.2, 0.3, 0.4], [0.9, 0.5, 0.3, 0.2])["spearman"] == pytest.approx(-1)
    assert trusted([0.1, 0.2], [0.2, 0.3])["spearman"] is None
    assert trusted([0.1, 0.2, 0.3], [0.15, 0.25, 0.35])["error"] == pytest.approx(0.05)


def test_losses_that_have_nothing_to_do_with_the_estimates_are_not_trusted():
    random = np.random.default_rng(0)
    unrelated = [trusted(random.random(8), random.random(8), seed)["spearman"] for seed in range(40)]
    assert abs(np.mean(unrelated)) < 0.2
    noise = trusted([0.1, 0.2, 0.3, 0.4], random.normal(0, 0.3, (4, 40)))
    assert noise["high"] - noise["low"] > 0.5


def front(estimated, measured):
    lines = [
        {
            "point": f"front-{place}", "trial": place, "chosen": place == 1, "split": "tuning",
            "measure": "loss_difference", "estimated": own, "measured": other, "low": None, "high": None,
            "sequences": 10, "clusters": 10,
        }
        for place, (own, other) in enumerate(zip(estimated, measured, strict=True))
    ]  # fmt: skip
    return pa.Table.from_pylist(lines, schema=FRONT)


def test_optimism_sets_the_estimate_beside_what_was_measured_on_both_splits():
    (found,) = optimism(front([0.1, 0.2], [0.15, 0.3]), rows(names.POLICY, 0.2, 0.35))
    assert found["estimated"] == 0.2 and found["tuning"][0] == 0.3 and found["test"][0] == 0.35
    assert found["test"][1:] == [pytest.approx(0.349), pytest.approx(0.351)]


def test_differences_are_paired():
    tuned, other = arm(names.POLICY, 0.2, 0.01), arm(names.CLASSIC, 0.9, 0.0)
    share, loss = differences(tuned, [other], CONFIG)
    assert share.value == pytest.approx(-0.7) and share.low == pytest.approx(-0.7) == share.high
    assert loss.value == pytest.approx(0.01) and loss.low == pytest.approx(0.01, abs=1e-6)
    same = differences(tuned, [tuned], CONFIG)
    assert [each.value for each in same] == [0, 0]
    assert evaluation_rows([arm(names.PLAIN, 1, 0), tuned], CONFIG)
