"""What is chosen of a measured front, what its estimates are worth, and what is said of it."""

import numpy as np
import pyarrow as pa
import pytest

from var_core.config.policy import EvaluationConfig, PolicyConfig
from var_core.config.tuning import TuningConfig
from var_core.evaluation import names
from var_core.evaluation.results import ArmResult, Row, evaluation_rows
from var_core.models.perplexity import SequenceScores
from var_core.tuning.choose import choose
from var_core.tuning.points import Point
from var_core.tuning.report import differences, optimism, trust
from var_core.tuning.trials import FRONT

CONFIG = EvaluationConfig(bootstrap=200)


def point(name, share, loss):
    return Point(name, 1, PolicyConfig(), {"learned_share": share, "loss_difference": loss, "relative_loss": loss / 4})


def rows(name, share, loss, half=0.001):
    made = {"learned_share": (share, 0.01), "loss_difference": (loss, half), "relative_loss": (loss / 4, half / 4)}
    return [
        Row(name, None, measure, value, value - wide, value + wide, 0.95, 100, "clusters")
        for measure, (value, wide) in made.items()
    ]


FRONT_POINTS = [("front-0", 0.0, 0.4), ("front-1", 0.1, 0.05), ("front-2", 0.5, 0.02), ("front-3", 0.9, 0.0)]


def chosen(config, measured=FRONT_POINTS, extra=()):
    points = [point(*each) for each in (*FRONT_POINTS, *extra)]
    found = [row for each in (*measured, *extra) for row in rows(*each)]
    return choose(points, found, config)


def test_the_knee_is_chosen_of_what_is_within_the_margin():
    assert chosen(TuningConfig()).point.name == "front-2"
    assert chosen(TuningConfig(max_relative_loss=None)).point.name == "front-1"


def test_the_fewest_learned_decisions_within_the_margin():
    assert chosen(TuningConfig(choose="fewest_learned")).point.name == "front-1"
    assert chosen(TuningConfig(choose="fewest_learned", max_relative_loss=0.01)).point.name == "front-2"
    assert chosen(TuningConfig(choose="fewest_learned", max_relative_loss=None)).point.name == "front-0"


def test_what_was_measured_decides_and_not_what_was_estimated():
    measured = [(name, share, 0.3 if name == "front-1" else loss) for name, share, loss in FRONT_POINTS]
    assert chosen(TuningConfig(choose="fewest_learned"), measured).point.name == "front-2"


def test_only_points_of_the_front_are_chosen():
    assert chosen(TuningConfig(choose="fewest_learned"), extra=[("classic", 0.01, 0.0)]).point.name == "front-1"


def test_where_no_point_is_within_the_margin_the_nearest_is_chosen_and_it_is_said(caplog):
    found = chosen(TuningConfig(max_relative_loss=1e-6))
    assert found.point.name == "front-3" and not found.within
    assert "no measured point is within the loss margin" in caplog.text


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


def test_trust_is_the_rank_correlation_of_what_was_measured_with_what_was_estimated():
    assert trust(front([1, 2, 3, 4], [2.0, 3.0, 5.0, 9.0]))["spearman"] == pytest.approx(1)
    assert trust(front([1, 2, 3, 4], [9.0, 5.0, 3.0, 2.0]))["spearman"] == pytest.approx(-1)
    assert trust(front([1, 2], [2.0, 3.0]))["spearman"] is None
    random = np.random.default_rng(0)
    unrelated = [trust(front(random.random(12), random.random(12)))["spearman"] for _ in range(200)]
    assert abs(np.mean(unrelated)) < 0.1
    assert trust(front([1, 2, 3], [1.5, 2.5, 3.5]))["error"] == pytest.approx(0.5)


def test_optimism_sets_the_estimate_beside_what_was_measured_on_both_splits():
    (found,) = optimism(front([0.1, 0.2], [0.15, 0.3]), rows(names.POLICY, 0.2, 0.35))
    assert found["estimated"] == 0.2 and found["tuning"][0] == 0.3 and found["test"][0] == 0.35
    assert found["test"][1:] == [pytest.approx(0.349), pytest.approx(0.351)]


def arm(name, learned, loss, seed=0):
    random = np.random.default_rng(seed)
    predicted = np.full(40, 100)
    nll = 400 + random.normal(0, 20, 40) + 100 * loss
    ways = np.zeros((3, 40, 2, 3))
    ways[0, :, :, 0], ways[0, :, :, 1] = 100 * learned, 100 * (1 - learned)
    return ArmResult(name, SequenceScores(nll, predicted), np.arange(40), np.full(40, "d"), ways)


def test_differences_are_paired():
    tuned, other = arm(names.POLICY, 0.2, 0.01), arm(names.CLASSIC, 0.9, 0.0)
    share, loss = differences(tuned, [other], CONFIG)
    assert share.value == pytest.approx(-0.7) and share.low == pytest.approx(-0.7) == share.high
    assert loss.value == pytest.approx(0.01) and loss.low == pytest.approx(0.01, abs=1e-6)
    same = differences(tuned, [tuned], CONFIG)
    assert [each.value for each in same] == [0, 0]
    assert evaluation_rows([arm(names.PLAIN, 1, 0), tuned], CONFIG)
