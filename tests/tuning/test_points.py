"""Points are spread over the front, and a trial's row says which policy it was."""

import numpy as np
import pyarrow as pa
import pytest

from var_core.config.policy import LayerThresholds, PolicyCacheConfig, PolicyConfig
from var_core.config.tuning import TuningConfig
from var_core.errors import VarError
from var_core.policy.make import choose_by
from var_core.tuning.points import Point, points_of, policy_of_row, spread_over
from var_core.tuning.trials import TRIALS

CONFIGURED = PolicyConfig(
    static_tokens=(3,), cache=PolicyCacheConfig(capacity=100, shared=False), agreement_threshold=0.7
)
ROW = {
    "predicate": "agreement", "tables": "pair", "thresholds": "global", "agreement_threshold": [0.4],
    "frequency_threshold": None, "entropy_threshold": None, "weights": "live", "capacity": 64, "context_window": 3,
    "time_to_live": 50, "confidence_threshold": 0.25,
}  # fmt: skip


def test_a_row_is_the_policy_that_was_tried():
    found = policy_of_row(ROW, CONFIGURED)
    assert found.tables == ("token", "pair") and found.agreement_threshold == 0.4 and found.weights == "live"
    assert found.cache == PolicyCacheConfig(capacity=64, context_window=3, time_to_live=50, confidence_threshold=0.25)
    assert found.static_tokens == (3,) and found.frequency_threshold == CONFIGURED.frequency_threshold


def test_thresholds_by_layer_and_no_cache():
    row = ROW | {
        "predicate": "classic", "thresholds": "by_layer", "agreement_threshold": None, "frequency_threshold": [5, 9],
        "entropy_threshold": [0.5, 1.5], "capacity": 0, "context_window": None,
    }  # fmt: skip
    found = policy_of_row(row, CONFIGURED)
    assert found.by_layer == LayerThresholds(frequency_threshold=(5, 9), entropy_threshold=(0.5, 1.5))
    assert found.cache.capacity == 0 and found.agreement_threshold == 0.7


def test_a_point_is_read_back_as_written():
    point = Point("front-1", 4, policy_of_row(ROW, CONFIGURED), {"learned_share": 0.3})
    assert Point.of_record(point.record()) == point


def test_points_are_spread_and_the_first_are_among_them():
    share = np.linspace(0, 1, 101)
    places = np.stack([share, (1 - share) ** 2 * 1e-3], axis=1)
    taken = spread_over(places, 6, (30, 0, 100))
    assert {30, 0, 100} < set(taken) and len(taken) == 6 and taken == sorted(taken)
    assert np.diff(taken).min() > 8
    assert spread_over(places[:3], 6, (1, 0, 2)) == [0, 1, 2]
    assert spread_over(np.zeros((5, 2)), 4, (0,)) == [0]


def test_a_policy_of_other_layers_is_refused(calibrated):
    trace, name = calibrated
    wrong = replace_thresholds(CONFIGURED, (0.1, 0.2))
    with pytest.raises(VarError, match=r"by_layer\.agreement_threshold: has 2 numbers, the model has 3 MoE layers"):
        choose_by(trace.tables[name], wrong, None)


def replace_thresholds(config, thresholds):
    return config.model_copy(update={"by_layer": LayerThresholds(agreement_threshold=thresholds)})


def trial(number, share, loss, on_front=False, violation=0.1, **other):
    values = {"learned_share": share, "loss_difference": loss, "relative_loss": loss / 4, "set_agreement": 0.5}
    own = {"study": "search", "number": number, "worker": 0, "state": "complete", "began_as": None}
    return ROW | values | own | {"on_front": on_front, "violation": violation} | other


TRIALS_OF = [
    trial(0, 0.97, 0.0, began_as="classic"),
    trial(1, 0.7, 0.001, began_as="configured"),
    *(trial(2 + place, place / 20, 0.5 * (1 - place / 20) ** 2, True, place / 20 / 0.15 - 1) for place in range(20)),
    trial(22, 0.1, 0.45, violation=-0.3),
    trial(23, 0.0, 0.1, state="failed"),
    trial(24, 0.0, 0.0, study="random", on_front=True),
]


def measured(**settings):
    table = pa.Table.from_pylist(TRIALS_OF, schema=TRIALS)
    return points_of(table, CONFIGURED, TuningConfig(**settings))


def test_ends_and_knees_of_the_front_and_of_what_meets_the_constraints_are_measured():
    points = measured(front_points=6)
    assert [point.name for point in points[-2:]] == ["configured", "classic"]
    trials = [point.trial for point in points[:-2]]
    assert [point.name for point in points[:-2]] == [f"front-{number}" for number in range(6)]
    # Trials 2 and 4 are the ends of what meets the constraints, 21 the other end of the front.
    assert {2, 4, 21} <= set(trials) and trials == sorted(trials)


def test_with_one_objective_the_best_that_meet_the_constraints_are_measured():
    loss = [point.trial for point in measured(objectives=["loss_difference"], front_points=3)[:-2]]
    assert sorted(loss) == [3, 4, 22]
    share = [point.trial for point in measured(objectives=["learned_share"], front_points=3)[:-2]]
    # Trials 4 and 22 have as many learned decisions; the one that costs less is taken.
    assert sorted(share) == [2, 3, 4]
