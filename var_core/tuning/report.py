"""What a search came to, to be read: the studies, the measured front, and how far its estimates can be trusted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from var_core.config.policy import EvaluationConfig
from var_core.config.tuning import TuningConfig
from var_core.evaluation import names
from var_core.evaluation.results import LEARNED, ArmResult, Clusters, Row, compare, evaluation_rows, find, read_arms
from var_core.files import read_json, write_json, write_text
from var_core.parquet import read_table
from var_core.tuning.points import MEASURES
from var_core.tuning.results import nearest_to_constraints
from var_core.tuning.trials import CONTROL, SEARCH

_TITLES = {
    "learned_share": "learned share",
    "loss_difference": "loss difference (nats a token)",
    "relative_loss": "relative loss",
    "set_agreement": "set agreement",
}


@dataclass(frozen=True)
class Difference:
    """The tuned policy less another on the same held-out text, paired by cluster."""

    other: str
    measure: str
    value: float
    low: float | None
    high: float | None


def report_tuning(folder: Path, evaluation_folder: Path, evaluation: EvaluationConfig, config: TuningConfig) -> None:
    """Write ``report.txt`` and ``summary.json``.

    Parameters
    ----------
    folder : Path
        With trials, front and choice.
    evaluation_folder : Path
        With the arms' files.
    evaluation : EvaluationConfig
    config : TuningConfig
    """
    trials, front = (read_table(folder / f"{name}.parquet") for name in ("trials", "front"))
    arms = read_arms(evaluation_folder, evaluation, tuned=True)
    chosen, model = read_json(folder / "chosen.json"), read_json(folder / "loss_model.json")["model"]
    by_name = {arm.arm: arm for arm in arms}
    shown = [by_name[names.PLAIN], by_name[names.POLICY], by_name[names.CONFIGURED], by_name[names.CLASSIC]]
    rows = evaluation_rows(shown, evaluation)
    found = {
        "chosen": chosen,
        "loss_model": model,
        "trust": chosen["trust"],
        "optimism": optimism(front, rows),
        "differences": [vars(each) for each in differences(shown[1], shown[2:], evaluation)],
        "hypervolume": {study: _last_hypervolume(trials, study) for study in (SEARCH, CONTROL)},
        "constraints": _constraint_line(trials, config),
    }
    found["sentence"] = sentence(found, trials, rows)
    found["front"] = [
        {name: row[name] for name in ("point", "chosen", "measure", "estimated", "measured", "low", "high")}
        for row in front.to_pylist()
    ]
    write_json(folder / "summary.json", found)
    write_text(folder / "report.txt", _text(found, trials, front, rows, config))


def sentence(found: Mapping[str, Any], trials: pa.Table, rows: Sequence[Row]) -> str:
    """What the search came to, in one line."""
    shares = {arm: find(rows, arm, "learned_share") for arm in (names.POLICY, names.CONFIGURED, names.CLASSIC)}
    tuned, configured, classic = ("none" if row is None else f"{row.value:.1%}" for row in shares.values())
    loss = find(rows, names.POLICY, "loss_difference")
    own, chosen, correlation = found["trust"], found["chosen"], found["trust"]["spearman"]
    number = len(trials.filter((pc.field("study") == SEARCH) & (pc.field("state") == "complete")))
    estimated = chosen["estimated"]["loss_difference"]
    said = [
        f"of {number} trials the search chose number {chosen['trial']}: {tuned} of the decisions are learned "
        f"({configured} as configured, {classic} with the classic predicate)"
    ]
    if loss is not None and loss.value is not None:
        said.append(
            f"its loss difference was estimated at {estimated:+.4f} nats a token and is {loss.value:+.4f} "
            f"{_ends(loss.low, loss.high)} on held-out text"
        )
    if correlation is not None:
        said.append(f"estimated and measured losses of {own['points']} policies correlate in rank by {correlation:.2f}")
    return "; ".join(said)


def optimism(front: pa.Table, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """What was estimated of the chosen point, measured on the tuning split, and then on text that no trial saw."""
    lines = []
    for row in front.filter(pc.field("chosen")).to_pylist():
        test = find(rows, names.POLICY, row["measure"])
        if test is not None:
            lines.append(
                {
                    "measure": row["measure"],
                    "estimated": row["estimated"],
                    "tuning": [row["measured"], row["low"], row["high"]],
                    "test": [test.value, test.low, test.high],
                }
            )
    return lines


def differences(tuned: ArmResult, others: Sequence[ArmResult], config: EvaluationConfig) -> list[Difference]:
    """The tuned policy less each other: learned share and loss, with intervals of the paired difference."""
    clusters = Clusters(tuned.cluster, config)
    found = []
    for other in others:
        assert tuned.ways is not None and other.ways is not None
        own, theirs = (arm.ways[0].sum(axis=1) for arm in (tuned, other) if arm.ways is not None)
        fewer = (own[:, LEARNED] - theirs[:, LEARNED])[:, None]
        value, ends = clusters.ratios(fewer, own.sum(axis=1)[:, None])
        low, high = (None if np.isnan(end) else float(end) for end in ends[:, 0])
        found.append(Difference(other.arm, "learned_share", float(value[0]), low, high))
        loss = compare(tuned, other, clusters, config)
        found.append(
            Difference(other.arm, "loss_difference", loss.difference, loss.difference_low, loss.difference_high)
        )
    return found


def _constraint_line(trials: pa.Table, config: TuningConfig) -> str:
    """How many of the search's trials meet the constraints, by their estimates."""
    found = nearest_to_constraints(trials.filter(pc.field("study") == SEARCH))
    if found.line or found.feasible is None:
        return found.line or "no constraints were set"
    asked = " and ".join(f"{_TITLES[name]} < {limit:g}" for name, limit in config.limits.items())
    return f"{found.feasible} trials of the search meet the constraints ({asked}) by their estimates"


def _last_hypervolume(trials: pa.Table, study: str) -> float | None:
    own = trials.filter((pc.field("study") == study) & (pc.field("state") == "complete"))
    return own.sort_by("number")["hypervolume"].to_pylist()[-1] if len(own) else None


def _text(
    found: Mapping[str, Any], trials: pa.Table, front: pa.Table, rows: Sequence[Row], config: TuningConfig
) -> str:
    parts = [
        _section("Studies", _studies(found, trials, config)),
        _section("Points of the front, estimated on calibration and measured on tuning", _front_lines(front)),
        _section("Trust", _trust_lines(found)),
        _section("Chosen", _chosen_lines(found)),
        _section("On held-out text that no trial saw", [*_arm_lines(rows), "", *_difference_lines(found)]),
    ]
    return "\n".join(parts)


def _section(title: str, lines: Sequence[str]) -> str:
    return "\n".join([title, "-" * len(title), *lines, ""])


def _studies(found: Mapping[str, Any], trials: pa.Table, config: TuningConfig) -> list[str]:
    lines = []
    for study, sampler in ((SEARCH, config.sampler), (CONTROL, "random")):
        own = trials.filter(pc.field("study") == study)
        complete, failed = (int(pc.sum(pc.equal(own["state"], state)).as_py() or 0) for state in ("complete", "failed"))
        volume = found["hypervolume"][study]
        lines.append(
            f"{study} ({sampler}): {complete} trials, {failed} failed and tried again; hypervolume "
            f"{'none' if volume is None else f'{volume:.5f}'}"
        )
    return [*lines, found["constraints"]]


def _front_lines(front: pa.Table) -> list[str]:
    lines = [f"{'point':<12}{'measure':<34}{'estimated':>10}{'measured':>10}  interval"]
    for row in front.to_pylist():
        mark = " *" if row["chosen"] else ""
        estimated = "" if row["estimated"] is None else f"{row['estimated']:.4f}"
        lines.append(
            f"{row['point'] + mark:<12}{_TITLES[row['measure']]:<34}{estimated:>10}{row['measured']:>10.4f}  "
            f"{_ends(row['low'], row['high'])}"
        )
    return lines


def _trust_lines(found: Mapping[str, Any]) -> list[str]:
    own, model = found["trust"], found["loss_model"]
    rank = "not to be had" if own["spearman"] is None else f"{own['spearman']:.2f} {_ends(own['low'], own['high'])}"
    return [
        f"Spearman's rank correlation of estimated with measured loss over {own['points']} points, which were spread "
        f"over the front on purpose: {rank}",
        f"root mean square error of the estimates there: {own['error']:.4f} nats a token",
        f"model of the loss: error on left-out probes {model['error']:.4f} of {model['spread']:.4f} nats a token "
        f"({model['probes']} probes)",
    ]


def _chosen_lines(found: Mapping[str, Any]) -> list[str]:
    chosen = found["chosen"]
    lines = [f"{chosen['name']}, trial {chosen['trial']}: {chosen['rule']}"]
    if chosen["chosen_again"] is not None:
        lines.append(f"chosen again in {chosen['chosen_again']:.0%} of resamples of the tuning split's clusters")
    lines.append(f"{'measure':<34}{'estimated':>10}{'tuning':>10}{'test':>10}  interval on test")
    for each in found["optimism"]:
        estimated = "" if each["estimated"] is None else f"{each['estimated']:.4f}"
        test = each["test"]
        lines.append(
            f"{_TITLES[each['measure']]:<34}{estimated:>10}{each['tuning'][0]:>10.4f}{test[0]:>10.4f}  "
            f"{_ends(test[1], test[2])}"
        )
    return lines


def _arm_lines(rows: Sequence[Row]) -> list[str]:
    lines = []
    for arm in (names.POLICY, names.CONFIGURED, names.CLASSIC):
        for measure in MEASURES:
            row = find(rows, arm, measure)
            if row is not None and row.value is not None:
                lines.append(f"{arm:<12}{_TITLES[measure]:<34}{row.value:>10.4f}  {_ends(row.low, row.high)}")
    return lines


def _difference_lines(found: Mapping[str, Any]) -> list[str]:
    lines = ["The tuned policy less another, paired by cluster"]
    for each in found["differences"]:
        ends = _ends(each["low"], each["high"])
        lines.append(f"less {each['other']:<12}{_TITLES[each['measure']]:<34}{each['value']:>+10.4f}  {ends}")
    return lines


def _ends(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"[{low:.4f}, {high:.4f}]"
