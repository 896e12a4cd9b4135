"""Choosing a policy from what the model comes to with the points of a front."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from var_core.config.policy import EvaluationConfig
from var_core.config.tuning import TuningConfig
from var_core.evaluation.results import Row, evaluation_rows, find
from var_core.files import read_json, write_json
from var_core.parquet import read_provenance, write_table
from var_core.tuning.points import FRONT_POINT, Point, read_measured
from var_core.tuning.results import knee
from var_core.tuning.stage import evaluation_of
from var_core.tuning.trials import FRONT

MEASURES = ("learned_share", "loss_difference", "relative_loss", "set_agreement")
RULES = {
    "knee": "the knee of the measured front: both axes scaled between its ends, the point farthest below the line "
    "through them, of those within the loss margin",
    "fewest_learned": "the fewest learned decisions of the measured points within the loss margin",
}
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Choice:
    """What was chosen.

    Attributes
    ----------
    point : Point
    rule : str
        In words.
    within : bool
        Whether it is within the loss margin; False where no point is, and the nearest was taken.
    """

    point: Point
    rule: str
    within: bool


def choose(points: Sequence[Point], rows: Sequence[Row], config: TuningConfig) -> Choice:
    """Choose one of the measured points of the front, by ``tuning.choose``.

    Parameters
    ----------
    points : sequence of Point
    rows : sequence of Row
        What was measured, arms by the points' names.
    config : TuningConfig
    """
    front = [point for point in points if point.name.startswith(FRONT_POINT)]
    worst = np.array([_upper(rows, point.name) for point in front])
    limit = np.inf if config.max_relative_loss is None else config.max_relative_loss
    within = np.flatnonzero(worst < limit)
    if not len(within):
        nearest = front[int(worst.argmin())]
        _LOGGER.warning(
            "no measured point is within the loss margin of %g (tuning.max_relative_loss); %s is nearest with %+.4f",
            limit, nearest.name, worst.min(),
        )  # fmt: skip
        return Choice(nearest, "no point is within the loss margin; the one with the least loss", False)
    kept = [front[place] for place in within]
    measured = np.array([[_value(rows, point.name, name) for name in MEASURES[:2]] for point in kept])
    place = knee(measured) if config.choose == "knee" else int(measured[:, 0].argmin())
    return Choice(kept[place], RULES[config.choose], True)


def choose_policy(folder: Path, evaluation: EvaluationConfig, config: TuningConfig, code: str) -> None:
    """Write the measured front, and the settings that are chosen for the policy.

    Parameters
    ----------
    folder : Path
        With ``points.json`` and what was measured; ``front.parquet`` and ``chosen.json`` go there.
    evaluation : EvaluationConfig
        How intervals are made.
    config : TuningConfig
    code : str
        Digest of the stage's code.
    """
    points = [Point.of_record(record) for record in read_json(folder / "points.json")]
    results = read_measured(folder, points)
    rows = evaluation_rows(results, evaluation_of(evaluation, config))
    chosen = choose(points, rows, config)
    _LOGGER.info("chosen: %s, trial %s", chosen.point.name, chosen.point.trial)
    sequences, clusters = len(results[0].cluster), len(np.unique(results[0].cluster))
    table = [
        {**_front_row(point, measure, rows), "chosen": point.name == chosen.point.name, "sequences": sequences,
         "clusters": clusters}
        for point in points
        for measure in MEASURES
        if find(rows, point.name, measure) is not None
    ]  # fmt: skip
    measured = read_provenance(folder / "measured.losses.parquet")
    for row in table:
        row["split"] = measured["text"]["split"]
    provenance = {
        "stage": "tuning",
        "made_from": measured["made_from"],
        "config": config.model_dump(mode="json"),
        "code": code,
    }
    write_table(folder / "front.parquet", pa.Table.from_pylist(table, schema=FRONT), provenance)
    write_json(folder / "chosen.json", {**chosen.point.record(), "rule": chosen.rule, "within_margin": chosen.within})


def _front_row(point: Point, measure: str, rows: Sequence[Row]) -> dict[str, Any]:
    row = find(rows, point.name, measure)
    assert row is not None
    estimated = point.estimated.get(measure)
    return {
        "point": point.name,
        "trial": point.trial,
        "measure": measure,
        "estimated": None if estimated is None or np.isnan(estimated) else estimated,
        "measured": row.value,
        "low": row.low,
        "high": row.high,
    }


def _value(rows: Sequence[Row], name: str, measure: str) -> float:
    row = find(rows, name, measure)
    assert row is not None and row.value is not None
    return row.value


def _upper(rows: Sequence[Row], name: str) -> float:
    """The upper end of a point's relative loss; the value itself where there is no interval."""
    row = find(rows, name, "relative_loss")
    assert row is not None and row.value is not None
    return row.value if row.high is None else row.high
