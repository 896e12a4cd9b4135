"""An evaluation as text that a person reads."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from var_core.evaluation import names
from var_core.evaluation.results import Row
from var_core.evaluation.verdict import find

_WIDTH = 110
_ARM_COLUMNS = ("coverage", "set_agreement", "loss_difference", "relative_loss", "perplexity")
_CHOSEN_COVERAGES = (0.2, 0.5, 0.8, 1.0)


def report_text(
    run: str,
    rows: Sequence[Row],
    gains: Sequence[Mapping[str, Any]],
    certificate: Mapping[str, Any],
    verdict: Mapping[str, Any],
) -> str:
    """Write the report of a run's policies.

    Parameters
    ----------
    run : str
    rows : sequence of Row
    gains : sequence of mapping
        Rows of :data:`var_core.evaluation.on_traces.GAINS`.
    certificate : mapping
    verdict : mapping
        Of :func:`var_core.evaluation.verdict.verdict`.
    """
    title = f"Routing policies of {run}"
    parts = [title, "=" * len(title), "", *textwrap.wrap(f"{verdict['sentence']}.", _WIDTH), ""]
    parts += _section("All arms, on the same unseen text", [*_arms(rows), *_notes(rows, verdict)])
    parts += _section("By layer, the policy", _layers(rows))
    classic = [*_classic(verdict["classic"]), "", "The interval of speed_up are the quartiles of its rounds."]
    parts += _section("The classic constraints", classic)
    if gains:
        parts += _section(
            "Held-out set agreement of all tables over tables by token id, at equal coverage", _gains(gains)
        )
    parts += _section("What is certified", _promises(certificate))
    return "\n".join(line.rstrip() for line in parts) + "\n"


def aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """Lines of cells in columns."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]


def arm_lines(rows: Sequence[Row]) -> list[list[str]]:
    """A line an arm: what it covers, how it agrees, what it costs."""
    lines = [["arm", *_ARM_COLUMNS]]
    for arm in dict.fromkeys(row.arm for row in rows):
        lines.append([arm, *(_cell(find(rows, arm, measure)) for measure in _ARM_COLUMNS)])
    return lines


def classic_lines(classic: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """A line a constraint or metric of the first proof of concept."""
    lines = [["arm", "metric", "value", "interval", "asked", "met"]]
    for each in classic:
        ends = "-" if each["low"] is None else f"{each['low']:.4f} to {each['high']:.4f}"
        value = "-" if each["value"] is None else f"{each['value']:.4f}"
        lines.append([each["arm"], each["measure"], value, ends, each["asked"] or "-", each["met"] or "-"])
    return lines


def gain_lines(gains: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """A line a layer: gains at some coverages."""
    chosen = [row for row in gains if row["measure"] == "set_agreement"]
    if not chosen:
        return []
    lines = [["layer", *(f"at {coverage:.0%}" for coverage in _CHOSEN_COVERAGES)]]
    for layer in sorted({row["layer"] for row in chosen}):
        own = {round(row["coverage"], 6): row for row in chosen if row["layer"] == layer}
        lines.append([str(layer), *(_gain(own[coverage]) for coverage in _CHOSEN_COVERAGES)])
    return lines


def _arms(rows: Sequence[Row]) -> list[str]:
    legend = [f"* {arm}: {names.meaning(arm)}" for arm in dict.fromkeys(row.arm for row in rows)]
    weights = {row.weights for row in rows} - {None}
    said = f"Weights of experts that the router did not choose: {', '.join(sorted(map(str, weights)))}."
    return [*aligned(arm_lines(rows)), "", *legend, "", said]


def _notes(rows: Sequence[Row], verdict: Mapping[str, Any]) -> list[str]:
    """What must be known beside the numbers."""
    confidence = next((row.confidence for row in rows if row.confidence is not None), None)
    said = [
        "Settings that are chosen by looking at this table need other text: these sequences are then no longer unseen.",
        *([] if confidence is None else [f"Intervals in brackets are at {confidence:.0%} confidence, each by itself."]),
        "The test for the margin and all intervals are approximate; bounds of the certificate are not.",
        *verdict["notes"],
    ]
    return ["", *(line for each in said for line in textwrap.wrap(f"* {each}", _WIDTH, subsequent_indent="  "))]


def _layers(rows: Sequence[Row]) -> list[str]:
    columns = ("fast_share", "cache_share", "learned_share", "set_agreement_fast", "set_agreement_cached")
    layers = sorted({row.layer for row in rows if row.layer is not None})
    lines = [["layer", *columns]]
    lines += [[str(layer), *(_cell(find(rows, names.POLICY, each, layer)) for each in columns)] for layer in layers]
    return aligned(lines)


def _classic(classic: Sequence[Mapping[str, Any]]) -> list[str]:
    return aligned(classic_lines(classic))


def _gains(gains: Sequence[Mapping[str, Any]]) -> list[str]:
    return aligned(gain_lines(gains))


def _promises(certificate: Mapping[str, Any]) -> list[str]:
    terms = certificate["terms"]
    lines = [["promise", "layer", "", "bound", "estimate"]]
    for each in certificate["promises"]:
        layer = str(each["layer"]) if "layer" in each else "all"
        lines.append([each["name"], layer, each["direction"], f"{each['bound']:.4f}", f"{each['estimate']:.4f}"])
    said = (
        f"All of these hold together with probability {terms['confidence']:g}; {certificate['sequences']} sequences in "
        f"{certificate['clusters']} clusters. `python -m var_core.policy verify FOLDER` recomputes them."
    )
    return [*aligned(lines), "", *textwrap.wrap(said, _WIDTH)]


def _section(title: str, lines: Sequence[str]) -> list[str]:
    return [title, "-" * len(title), "", *lines, ""]


def _cell(row: Row | None) -> str:
    if row is None or row.value is None:
        return "-"
    digits = 1 if row.value >= 10 else 4
    ends = "" if row.low is None else f" [{row.low:.{digits}f}, {row.high:.{digits}f}]"
    return f"{row.value:.{digits}f}{ends}"


def _gain(row: Mapping[str, Any]) -> str:
    ends = "" if row["low"] is None else f" [{row['low']:+.3f}, {row['high']:+.3f}]"
    return f"{row['gain']:+.3f}{ends}"
