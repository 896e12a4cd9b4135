"""Choosing a policy from what the model comes to with the points of a front."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.stats import spearmanr

from var_core.config.policy import EvaluationConfig
from var_core.config.tuning import TuningConfig
from var_core.evaluation.results import LEARNED, ArmResult, Clusters, Row, evaluation_rows, find
from var_core.files import read_json, write_json
from var_core.hypotheses.resampling import percentile_interval
from var_core.parquet import read_provenance, write_table
from var_core.tuning.points import FRONT_POINT, MEASURES, Point, read_measured
from var_core.tuning.results import knee
from var_core.tuning.stage import evaluation_of
from var_core.tuning.trials import FRONT

Floats = NDArray[np.float64]
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Choice:
    """What was chosen of N points.

    Attributes
    ----------
    place : int
    rule : str
        In words.
    within : bool
        Whether it meets the constraints; False where no point does.
    """

    place: int
    rule: str
    within: bool


def choose(values: Mapping[str, Floats], worst: Mapping[str, Floats], config: TuningConfig) -> Choice:
    """Choose one of N points, by ``tuning.choose``, or the least of a single objective.

    Parameters
    ----------
    values : mapping of str to numpy.ndarray
        Measure -> float64 [N]: learned share, loss difference, relative loss.
    worst : mapping of str to numpy.ndarray
        The same as the constraints are judged by: upper ends of intervals, where there are any.
    config : TuningConfig
    """
    missed = {name: worst[name] / limit - 1 for name, limit in config.limits.items()}
    number = len(values["learned_share"])
    meets = {name: excess < 0 for name, excess in missed.items()}
    # With none that meets all, the margin of the loss comes first: it is what a policy may not do.
    for kept in (list(meets), [name for name in ("relative_loss",) if name in meets]):
        within = np.flatnonzero(np.all([meets[name] for name in kept], axis=0)) if kept else np.arange(number)
        if len(within) and kept == list(meets):
            return _best(values, within, config)
        if len(within):
            place = int(within[missed["learned_share"][within].argmin()])
            return Choice(place, "no point meets the constraints; of those within the loss margin, the fewest learned "
                          "decisions", False)  # fmt: skip
    place = int(np.max(list(missed.values()), axis=0).argmin())
    return Choice(place, "no point is within the loss margin; the one that misses the constraints least", False)


def _best(values: Mapping[str, Floats], within: NDArray[np.int64], config: TuningConfig) -> Choice:
    meeting = "of the measured points that meet the constraints"
    if len(config.objectives) == 1:
        (objective,) = config.objectives
        place = int(within[values[objective][within].argmin()])
        return Choice(place, f"{meeting}, the least {objective.replace('_', ' ')}", True)
    if config.choose == "fewest_learned":
        return Choice(int(within[values["learned_share"][within].argmin()]), f"{meeting}, the fewest learned decisions",
                      True)  # fmt: skip
    # Scaled between the ends of all that was measured, so that the knee does not move with the constraints.
    places = np.stack([values[name] for name in MEASURES[:2]], axis=1)
    return Choice(
        knee(places, within),
        f"{meeting}, the knee (both axes scaled between the ends of the measured front, the point farthest below the "
        "line through them)",
        True,
    )


@dataclass(frozen=True)
class _Resampled:
    """Measured values of N points in B resamples of the clusters, each [B, N]."""

    values: dict[str, Floats]

    @classmethod
    def of(cls, plain: ArmResult, arms: Sequence[ArmResult], clusters: Clusters) -> "_Resampled":
        """Resample sums over clusters, the same for all points."""
        base, predicted = (clusters.resampled(each) for each in (plain.scores.nll_sum, plain.scores.predicted))
        columns: dict[str, list[Floats]] = {name: [] for name in MEASURES[:3]}
        for arm in arms:
            assert arm.ways is not None
            decisions = arm.ways[0].sum(axis=1)
            learned, all_decisions = (
                clusters.resampled(each) for each in (decisions[:, LEARNED], decisions.sum(axis=1))
            )
            loss = clusters.resampled(arm.scores.nll_sum) - base
            for name, part in zip(columns, (learned / all_decisions, loss / predicted, loss / base), strict=True):
                columns[name].append(part)
        return cls({name: np.stack(parts, axis=1) for name, parts in columns.items()})

    def each(self) -> list[dict[str, Floats]]:
        """A resample after the other."""
        return [{name: part[number] for name, part in self.values.items()} for number in range(len(self))]

    def __len__(self) -> int:
        return len(self.values["learned_share"])


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
    plain, *arms = read_measured(folder, points)
    own = evaluation_of(evaluation, config)
    front = [place for place, point in enumerate(points) if point.name.startswith(FRONT_POINT)]
    # The best of several points is taken, so that each one's interval is as much wider.
    strict = own.model_copy(update={"confidence": 1 - (1 - own.confidence) / len(front)})
    rows, judged = (_rows([plain, *arms], each, config) for each in (own, strict))
    names = [points[place].name for place in front]
    values = {name: _column(rows, names, name) for name in MEASURES[:3]}
    chosen = choose(values, {name: _column(judged, names, name, upper=True) for name in MEASURES[:3]}, config)
    point = points[front[chosen.place]]
    if not chosen.within:
        _LOGGER.warning("no measured point meets the constraints (%s); %s is taken: %s", config.limits, point.name,
                        chosen.rule)  # fmt: skip
    clusters = Clusters(plain.cluster, own)
    again = _Resampled.of(plain, [arms[place] for place in front], clusters)
    same = np.mean([choose(each, each, config).place == chosen.place for each in again.each()])
    record = {
        **point.record(),
        "rule": chosen.rule,
        "meets_constraints": chosen.within,
        "limits": config.limits,
        "chosen_again": float(same) if config.confidence is not None else None,
        "trust": trust(points, plain, arms, clusters, config),
    }
    counts = {"sequences": len(plain.cluster), "clusters": len(np.unique(plain.cluster))}
    measured = read_provenance(folder / "measured.losses.parquet")
    fixed = {**counts, "split": measured["text"]["split"]}
    table = [
        {**_front_row(each, measure, rows), **fixed, "chosen": each.name == point.name}
        for each in points
        for measure in MEASURES
        if find(rows, each.name, measure) is not None
    ]
    provenance = {
        "stage": "tuning",
        "made_from": measured["made_from"],
        "config": config.model_dump(mode="json"),
        "code": code,
    }
    write_table(folder / "front.parquet", pa.Table.from_pylist(table, schema=FRONT), provenance)
    write_json(folder / "chosen.json", record)


def trust(
    points: Sequence[Point], plain: ArmResult, arms: Sequence[ArmResult], clusters: Clusters, config: TuningConfig
) -> dict[str, Any]:
    """How measured losses follow the estimated ones: rank correlation, with an interval over clusters, and error.

    Points that come to the same estimates count once. They were spread over the front on purpose, so that the
    correlation is higher than it would be among neighbours.
    """
    distinct = {tuple(point.estimated.values()): place for place, point in enumerate(points)}
    places = sorted(distinct.values())
    estimated = np.array([points[place].estimated["loss_difference"] for place in places], dtype=np.float64)
    again = _Resampled.of(plain, [arms[place] for place in places], clusters).values["loss_difference"]
    losses = [(arms[place].scores.nll_sum - plain.scores.nll_sum).sum() for place in places]
    measured = np.array(losses) / plain.scores.predicted.sum()
    found: dict[str, Any] = {"points": len(places), "spearman": None, "low": None, "high": None}
    found["error"] = float(np.sqrt(((measured - estimated) ** 2).mean()))
    if len(places) >= 3 and len(np.unique(estimated)) > 1:
        found["spearman"] = float(spearmanr(estimated, measured).statistic)
        draws = np.array([spearmanr(estimated, each).statistic for each in again])
        ends = None if config.confidence is None else percentile_interval(draws, len(clusters), config.confidence)
        if ends is not None:
            found["low"], found["high"] = map(float, ends)
    return found


def _rows(results: Sequence[ArmResult], evaluation: EvaluationConfig, config: TuningConfig) -> list[Row]:
    rows = evaluation_rows(results, evaluation)
    return rows if config.confidence is not None else [replace(row, low=None, high=None) for row in rows]


def _column(rows: Sequence[Row], names: Sequence[str], measure: str, upper: bool = False) -> Floats:
    """A measure of several arms; the upper ends of its intervals where there are any."""
    found = []
    for name in names:
        row = find(rows, name, measure)
        assert row is not None and row.value is not None
        found.append(row.high if upper and row.high is not None else row.value)
    return np.array(found, dtype=np.float64)


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
