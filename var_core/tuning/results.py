"""What a study comes to: its trials in one table, the front, its hypervolume, what mattered, and the knee."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import optuna
import pyarrow as pa
import pyarrow.compute as pc
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.trial import FrozenTrial, create_trial

from var_core.config.tuning import TuningConfig
from var_core.errors import VarError
from var_core.parquet import read_provenance, read_table
from var_core.tuning.journal import quiet
from var_core.tuning.trials import IMPORTANCES, TRIALS

AXES = ("learned_share", "loss_difference")
"""Of the front: both are made small."""
_CHOICES = ("predicate", "tables", "thresholds", "weights", "capacity")
_NUMBERS = (
    "agreement_threshold", "frequency_threshold", "entropy_threshold", "context_window", "time_to_live",
    "confidence_threshold",
)  # fmt: skip
_BEST_SHARE = 0.1

Points = npt.NDArray[np.float64]


def collect(files: Sequence[Path], config: TuningConfig, worst_loss: float) -> pa.Table:
    """Put the workers' trials of one study together.

    Parameters
    ----------
    files : sequence of Path
        What the workers of the study wrote.
    config : TuningConfig
        Its budget.
    worst_loss : float
        Loss difference of the reference point of the hypervolume, whose learned share is 1; points that are worse in
        either count for nothing.

    Returns
    -------
    pa.Table
        With the columns of ``TRIALS``, in order of number.

    Raises
    ------
    VarError
        If there are fewer complete trials than the budget, or the files are of several studies.
    """
    folder = ", ".join(sorted({str(file.parent) for file in files}))
    studies = {read_provenance(file).get("study_name") for file in files}
    if len(studies) > 1:
        names = ", ".join(sorted(map(str, studies)))
        raise VarError(f"{folder}: trials of several studies ({names}); delete the files and run the workers again")
    table = _distinct([read_table(file, TRIALS.names) for file in files])
    complete = _complete(table)
    if complete.sum() < config.trials:
        raise VarError(
            f"{folder}: {complete.sum()} complete trials, where tuning.trials is {config.trials}; run the study's "
            "workers again"
        )
    # A study that was longer before is cut to what it would have been.
    table = table.slice(0, int(np.flatnonzero(complete)[config.trials - 1]) + 1)
    complete = _complete(table)
    points = _points(table)
    on_front = np.zeros(len(points), dtype=bool)
    on_front[complete] = front(points[complete])
    points[~complete] = np.inf
    columns = {"on_front": on_front, "hypervolume": hypervolumes(points, (1.0, worst_loss))}
    for name, values in columns.items():
        place = TRIALS.get_field_index(name)
        table = table.set_column(place, TRIALS.field(name), pa.array(values, TRIALS.field(name).type))
    return table.cast(TRIALS)


def _distinct(tables: Sequence[pa.Table]) -> pa.Table:
    """Trials in order of number; each worker wrote what it knew of all, and a complete trial does not change."""
    table = pa.concat_tables([each.replace_schema_metadata() for each in tables])
    table = table.append_column("unfinished", pa.array(~_complete(table)))
    table = table.sort_by([("number", "ascending"), ("unfinished", "ascending")]).drop_columns(["unfinished"])
    first = np.unique(table["number"].to_numpy(), return_index=True)[1]
    return table.take(first)


def front(points: Points) -> npt.NDArray[np.bool_]:
    """Which points no other is better than, in one coordinate, and no worse in the other; of equal ones the first."""
    kept = np.zeros(len(points), dtype=bool)
    least = np.inf
    # Ordered by the first coordinate, then the second, then as they came.
    for index in np.lexsort((np.arange(len(points)), points[:, 1], points[:, 0])):
        if points[index, 1] < least:
            kept[index], least = True, points[index, 1]
    return kept


def hypervolumes(points: Points, reference: tuple[float, float]) -> Points:
    """Area that the points up to each one dominate, within the reference point."""
    corners, area, areas = np.empty((0, 2)), 0.0, np.empty(len(points))
    for number, point in enumerate(points):
        if (point < reference).all() and not (corners <= point).all(axis=1).any():
            corners = corners[~(point <= corners).all(axis=1)]
            corners = np.insert(corners, np.searchsorted(corners[:, 0], point[0]), point, axis=0)
            tops = np.concatenate([[reference[1]], corners[:-1, 1]])
            area = float(((reference[0] - corners[:, 0]) * (tops - corners[:, 1])).sum())
        areas[number] = area
    return areas


def importances(table: pa.Table) -> pa.Table:
    """How much each setting has to do with a trial's being among the best tenth in an objective (PED-ANOVA).

    Settings that only some trials have, as the thresholds of a predicate, are weighed by how often they were of use;
    thresholds by layer count with their mean.

    Parameters
    ----------
    table : pa.Table
        Trials of one study, as :func:`collect` gives them.

    Returns
    -------
    pa.Table
        With the columns of ``IMPORTANCES``, for each objective the most important first; shares of their sum.
    """
    complete = table.filter(pa.array(_complete(table))).to_pylist()
    distributions = _distributions(complete)
    rows: list[dict[str, Any]] = []
    for objective in AXES if distributions and len(complete) > 1 else ():
        with quiet(), warnings.catch_warnings():
            # That low values are the better ones, and that few trials have some of the settings.
            warnings.simplefilter("ignore", UserWarning)
            study = optuna.create_study(direction="minimize")
            study.add_trials([_as_trial(row, objective, distributions) for row in complete])
            evaluator = PedAnovaImportanceEvaluator(target_quantile=_BEST_SHARE)
            found = optuna.importance.get_param_importances(study, evaluator=evaluator)
        for parameter, importance in sorted(found.items(), key=lambda item: (-item[1], item[0])):
            row = {"study": complete[0]["study"], "objective": objective}
            rows.append(row | {"parameter": parameter, "importance": float(importance)})
    return pa.Table.from_pylist(rows, IMPORTANCES)


@dataclass(frozen=True)
class Feasibility:
    """Whether trials meet the constraints.

    Attributes
    ----------
    feasible : int or None
        Complete trials that meet all constraints; None if there are none.
    nearest : int or None
        Number of the trial that misses them least, where none meets them.
    line : str or None
        What to say then.
    """

    feasible: int | None
    nearest: int | None = None
    line: str | None = None


def nearest_to_constraints(table: pa.Table) -> Feasibility:
    """Count the trials that meet the constraints; where none does, say which comes nearest, and how near."""
    violations = [(row["violation"], row["number"], row) for row in table.to_pylist() if row["violation"] is not None]
    if not violations:
        return Feasibility(None)
    feasible = sum(violation < 0 for violation, _, _ in violations)
    if feasible:
        return Feasibility(feasible)
    violation, number, row = min(violations, key=lambda each: each[:2])
    line = (
        f"none of {len(violations)} trials meets the constraints; trial {number} comes nearest, with a learned share "
        f"of {row['learned_share']:.3f} and a loss increase of {row['relative_loss']:.1%}, and misses one by "
        f"{violation:.1%} of it: raise tuning.max_learned_share or tuning.max_relative_loss, or search a wider space"
    )
    return Feasibility(0, number, line)


def knee(points: Points, among: npt.NDArray[np.int64] | None = None) -> int:
    """The point of a front from which on less of one costs much of the other.

    Both axes are scaled to [0, 1] between the ends of the front; the knee is the point that is farthest below the
    straight line through the ends. With fewer than three points, or none below the line, it is the point with the least
    sum of the scaled axes, of equal ones the first. `among`: numbers of the points that may be it; all are ends.
    """
    if not len(points):
        raise ValueError("a front without points has no knee")
    least, greatest = points.min(axis=0), points.max(axis=0)
    scaled = (points - least) / np.where(greatest > least, greatest - least, 1.0)
    # The line through (0, 1) and (1, 0): the distance from it is that of the sum from 1.
    places = np.arange(len(points)) if among is None else among
    return int(places[np.argmin(np.round(scaled.sum(axis=1), 12)[places])])


def _complete(table: pa.Table) -> npt.NDArray[np.bool_]:
    return np.asarray(pc.equal(table["state"], "complete"))


def _points(table: pa.Table) -> Points:
    return np.column_stack([table[name].to_numpy().astype(float) for name in AXES])


def _distributions(rows: list[dict[str, Any]]) -> dict[str, BaseDistribution]:
    """Of the columns that differ between trials; ranges are those of the trials."""
    found: dict[str, BaseDistribution] = {}
    for name in _CHOICES:
        if len(choices := sorted({row[name] for row in rows})) > 1:
            found[name] = CategoricalDistribution(choices)
    for name in _NUMBERS:
        numbers = [number for row in rows if (number := _number(row[name])) is not None]
        if len(set(numbers)) > 1:
            log = name in ("frequency_threshold", "time_to_live")
            found[name] = FloatDistribution(min(numbers), max(numbers), log=log)
    return found


def _number(value: Any) -> float | None:
    if isinstance(value, list):
        return float(np.mean(value))
    return None if value is None else float(value)


def _as_trial(row: dict[str, Any], objective: str, distributions: dict[str, BaseDistribution]) -> FrozenTrial:
    values = {name: row[name] if name in _CHOICES else _number(row[name]) for name in distributions}
    given = {name: value for name, value in values.items() if value is not None}
    own = {name: distributions[name] for name in given}
    return create_trial(value=row[objective], params=given, distributions=own)
