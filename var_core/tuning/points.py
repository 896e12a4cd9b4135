"""Points of a front that the model itself is run with, and what it comes to with them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from var_core.config.policy import LayerThresholds, PolicyCacheConfig, PolicyConfig
from var_core.config.tuning import TABLES_OF, TuningConfig
from var_core.evaluation.arms import run_plain, run_policy
from var_core.evaluation.names import PLAIN
from var_core.evaluation.results import ArmResult
from var_core.evaluation.stage import Sources, losses_table, ways_table
from var_core.files import write_json
from var_core.parquet import read_provenance, read_table, write_table
from var_core.progress import Progress
from var_core.tuning.results import knee
from var_core.tuning.stage import Search, policy_of, set_of
from var_core.tuning.trials import CLASSIC, CONFIGURED, SEARCH

Floats = NDArray[np.float64]
FRONT_POINT = "front-"
_THRESHOLDS = tuple(LayerThresholds.model_fields)
MEASURES = ("learned_share", "loss_difference", "relative_loss", "set_agreement")
"""What is estimated of a point, and measured."""


@dataclass(frozen=True)
class Point:
    """A policy to measure.

    Attributes
    ----------
    name : str
    trial : int or None
        Number of the trial in the search.
    policy : PolicyConfig
    estimated : dict
        What the trial came to on the calibration split, by measure.
    """

    name: str
    trial: int | None
    policy: PolicyConfig
    estimated: dict[str, float | None]

    def record(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {**vars(self), "policy": self.policy.model_dump(mode="json")}

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> "Point":
        """Read it back."""
        return cls(**{**record, "policy": PolicyConfig.model_validate(record["policy"])})


def points_of(trials: pa.Table, configured: PolicyConfig, config: TuningConfig) -> list[Point]:
    """Choose points of the search to measure, and the trials that it began with.

    With two objectives, points of the front that lie far from each other: its ends and its knee, and those of the part
    that meets the constraints, come first. With one, the trials that are best in it of those that meet the constraints,
    or that miss them least.

    Parameters
    ----------
    trials : pyarrow.Table
        Of schema :data:`var_core.tuning.trials.TRIALS`.
    configured : PolicyConfig
    config : TuningConfig
    """
    own = trials.filter((pc.field("study") == SEARCH) & (pc.field("state") == "complete")).to_pylist()
    rows = _best_of(own, config) if len(config.objectives) == 1 else _of_front(own, config)
    points = [_point(f"{FRONT_POINT}{number}", row, configured) for number, row in enumerate(rows)]
    begun = {row["began_as"]: row for row in own if row["began_as"]}
    return points + [_point(name, begun[name], configured) for name in (CONFIGURED, CLASSIC) if name in begun]


def _of_front(rows: Sequence[dict[str, Any]], config: TuningConfig) -> list[dict[str, Any]]:
    front = sorted((row for row in rows if row["on_front"]), key=lambda row: float(row["learned_share"]))
    places = np.array([[row["learned_share"], row["loss_difference"]] for row in front])
    meeting = np.array([place for place, row in enumerate(front) if _missed(row) < 0], dtype=np.int64)
    first = [knee(places), 0, len(front) - 1]
    if len(meeting):
        first = [knee(places, meeting), int(meeting[-1]), int(meeting[0]), *first]
    return [front[place] for place in spread_over(places, config.front_points, first)]


def _best_of(rows: Sequence[dict[str, Any]], config: TuningConfig) -> list[dict[str, Any]]:
    (objective,) = config.objectives
    distinct = {tuple(row[name] for name in MEASURES): row for row in reversed(rows)}

    def rank(row: dict[str, Any]) -> tuple[float, ...]:
        both = (row["learned_share"], row["loss_difference"])
        return (_missed(row) >= 0, max(_missed(row), 0.0), row[objective], *both)

    best = sorted(distinct.values(), key=rank)
    return sorted(best[: config.front_points], key=lambda row: float(row["learned_share"]))


def _missed(row: Mapping[str, Any]) -> float:
    """By how much a trial misses the constraints; less than 0 where it meets them, or there are none."""
    return -1.0 if row["violation"] is None else float(row["violation"])


def _point(name: str, row: Mapping[str, Any], configured: PolicyConfig) -> Point:
    return Point(name, row["number"], policy_of_row(row, configured), {score: row[score] for score in MEASURES})


def policy_of_row(row: Mapping[str, Any], configured: PolicyConfig) -> PolicyConfig:
    """The settings of a trial, from its row; all that was not searched is as configured."""
    changed: dict[str, Any] = {
        "predicate": row["predicate"],
        "tables": TABLES_OF[row["tables"]],
        "weights": row["weights"],
        "cache": PolicyCacheConfig(capacity=0, shared=configured.cache.shared),
    }
    if row["capacity"]:
        names = ("capacity", "context_window", "time_to_live", "confidence_threshold")
        changed["cache"] = configured.cache.model_copy(update={name: row[name] for name in names})
    several: dict[str, Any] = {}
    for name in _THRESHOLDS:
        if row[name] is None:
            continue
        if len(row[name]) > 1:
            several[name] = tuple(row[name])
        else:
            changed[name] = row[name][0]
    return configured.model_copy(update={**changed, "by_layer": LayerThresholds(**several)})


def spread_over(places: Floats, most: int, first: Sequence[int]) -> list[int]:
    """Numbers of points that lie far from each other: those given first, then whichever is farthest from all taken.

    Parameters
    ----------
    places : numpy.ndarray
        float64 [N, 2].
    most : int
    first : sequence of int
    """
    span = np.ptp(places, axis=0)
    scaled = (places - places.min(axis=0)) / np.where(span > 0, span, 1)
    taken = list(dict.fromkeys(first))[:most]
    while len(taken) < min(most, len(places)):
        nearest = np.linalg.norm(scaled[:, None] - scaled[taken], axis=2).min(axis=1)
        if nearest.max() <= 0:
            break
        taken.append(int(nearest.argmax()))
    return sorted(taken)


def measure_points(search: Search, sources: Sources, points: Sequence[Point], output: Path, code: str) -> None:
    """Run the model plain and with each point on the tuning split.

    Parameters
    ----------
    search : Search
    sources : Sources
        The model, and the tuning split's sequences.
    points : sequence of Point
    output : Path
        Folder for ``points.json``, ``measured.losses.parquet`` and ``measured.ways.parquet``.
    code : str
        Digest of the stage's code.
    """
    text = sources.text()
    split = {key: read_provenance(sources.shards[0])[key] for key in ("run", "split", "corpus", "tokenizer")}
    provenance = {
        "stage": "tuning", "made_from": search.made_from, "text": split, "sequences": len(text), "code": code,
    }  # fmt: skip
    policies = [policy_of(search, point.policy, search.tables(set_of(point.policy))) for point in points]
    subject = sources.subject(policies[0], live=any(each.settings.weights == "live" for each in policies))
    losses, ways = [], []
    with Progress(text.input_ids.size * (len(points) + 1), "token", "measure") as progress:
        plain = run_plain(subject, text, progress.advance)
        losses.append(losses_table(PLAIN, text, plain))
        ways.append(ways_table(PLAIN, text.sequence, plain))
        for point, policy in zip(points, policies, strict=True):
            result = run_policy(subject, text, policy.tables, policy.settings, progress.advance)
            losses.append(losses_table(point.name, text, result))
            ways.append(ways_table(point.name, text.sequence, result))
    write_table(output / "measured.losses.parquet", pa.concat_tables(losses), provenance)
    write_table(output / "measured.ways.parquet", pa.concat_tables(ways), provenance)
    write_json(output / "points.json", [point.record() for point in points])


def read_measured(folder: Path, points: Sequence[Point]) -> list[ArmResult]:
    """Read what :func:`measure_points` has written, the plain model first."""
    losses, ways = (read_table(folder / f"measured.{kind}.parquet") for kind in ("losses", "ways"))
    return [
        ArmResult.of(name, losses.filter(pc.field("arm") == name), ways.filter(pc.field("arm") == name))
        for name in (PLAIN, *(point.name for point in points))
    ]
