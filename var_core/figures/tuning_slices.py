"""What each setting does: loss and learned share of the search's trials against it, and how much it matters."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import SubFigure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter, SymmetricalLogLocator

from var_core.figures.sources import Drawing, Sources, percent
from var_core.figures.style import BLUE, PAGE, SEQUENTIAL, VERMILLION, empty_panel, letter_panels, new_figure
from var_core.figures.tunings import Floats
from var_core.tuning.trials import SEARCH

NEEDS = ("tuning",)
"""What must have been recorded of the run."""

_COLUMNS = 3
_MOST_BARS = 12
_NUMERIC = {
    "agreement_threshold": "agreement threshold",
    "frequency_threshold": "frequency threshold",
    "entropy_threshold": "entropy threshold",
    "confidence_threshold": "cache confidence",
    "capacity": "cache capacity",
    "context_window": "context window",
    "time_to_live": "time to live",
}
"""Settings that are numbers, and what they are called in a panel."""
_BY_LAYER = ("agreement_threshold", "frequency_threshold", "entropy_threshold")
_LOGARITHMIC = {"frequency_threshold": 1.0, "capacity": 16.0, "time_to_live": 1.0}
"""Settings on a logarithmic scale, and where it becomes a linear one down to 0."""
_WHOLE = ("context_window",)
_OBJECTIVES = {"learned_share": ("learned share", BLUE), "loss_difference": ("loss difference", VERMILLION)}


@dataclass(frozen=True)
class Slice:
    """A setting of the trials that have it, and what came of them; thresholds of layers by their mean."""

    setting: str
    value: Floats
    learned_share: Floats
    loss_difference: Floats


@dataclass(frozen=True)
class Importance:
    """What a setting explains of each objective."""

    setting: str
    shares: dict[str, float]


def draw(sources: Sources) -> Drawing:
    """Draw a panel a setting with numbers, and bars of importances."""
    slices, importances = measure_slices(sources), measure_importances(sources)
    rows = math.ceil(len(slices) / _COLUMNS)
    figure = new_figure(PAGE, max(2.6, 0.5 + 1.45 * rows))
    left, right = figure.subfigures(1, 2, width_ratios=(2.15, 1.0))
    panels = _draw_slices(left, slices)
    bars = right.subplots()
    _draw_importances(bars, importances)
    if importances:
        right.legend(loc="outside lower center", ncols=1)
    letter_panels([*panels, bars], [*(_NUMERIC[each.setting] for each in slices), "importance"])
    return Drawing(figure, _caption(slices, importances))


def measure_slices(sources: Sources) -> list[Slice]:
    """The settings with numbers that differ between complete trials of the search."""
    columns = ", ".join(f"list_avg({name}) AS {name}" if name in _BY_LAYER else name for name in _NUMERIC)
    rows = sources.query(
        f"""
        SELECT learned_share, loss_difference, {columns} FROM tuning_trials
        WHERE run = $run AND study = '{SEARCH}' AND state = 'complete' ORDER BY number
        """
    )
    found = {name: np.array(rows[name].to_pylist(), dtype=np.float64) for name in rows.column_names}
    slices = []
    for name in _NUMERIC:
        there = np.isfinite(found[name])
        if len(np.unique(found[name][there])) > 1:
            slices.append(Slice(name, *(found[each][there] for each in (name, "learned_share", "loss_difference"))))
    return slices


def measure_importances(sources: Sources) -> list[Importance]:
    """Importances in the search, the settings that explain most of any objective first."""
    rows = sources.query(
        f"SELECT objective, parameter, importance FROM tuning_importances WHERE run = $run AND study = '{SEARCH}'"
    ).to_pylist()
    shares: dict[str, dict[str, float]] = {}
    for row in rows:
        shares.setdefault(row["parameter"], {})[row["objective"]] = row["importance"]
    found = [Importance(setting, own) for setting, own in shares.items()]
    return sorted(found, key=lambda each: (-max(each.shares.values()), each.setting))


def _draw_slices(part: SubFigure, slices: Sequence[Slice]) -> list[Axes]:
    if not slices:
        empty_panel(part.subplots(), "no setting with numbers was searched")
        return []
    shape = math.ceil(len(slices) / _COLUMNS), min(_COLUMNS, len(slices))
    grid = part.subplots(*shape, sharey=True, squeeze=False)
    colours = ScalarMappable(Normalize(0, 1), SEQUENTIAL)
    many = len(slices[0].value) > 150
    for panel, each in zip(grid.flat, slices, strict=False):
        panel.scatter(
            each.value, each.loss_difference, c=each.learned_share, cmap=colours.cmap, norm=colours.norm,
            s=4 if many else 10, linewidths=0, alpha=0.8,
        )  # fmt: skip
        _scale(panel, each.setting)
    for panel in grid.flat[len(slices) :]:
        panel.remove()
    part.supylabel("modelled loss difference (nats a token)", fontsize=8.0)
    panels = list(grid.flat[: len(slices)])
    bar = part.colorbar(colours, ax=panels, location="right", pad=0.02, aspect=30, format=PercentFormatter(1.0))
    bar.set_label("learned share")
    return panels


def _scale(panel: Axes, setting: str) -> None:
    if setting in _LOGARITHMIC:
        linear = _LOGARITHMIC[setting]
        panel.set_xscale("symlog", linthresh=linear, linscale=0.5)
        panel.xaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=linear))
        panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
    else:
        panel.xaxis.set_major_locator(MaxNLocator(3, integer=setting in _WHOLE))


def _short(value: float) -> str:
    """Write a round number in few characters."""
    return f"{value / 1000:g}k" if value >= 1000 else f"{value:g}"


def _draw_importances(panel: Axes, importances: Sequence[Importance]) -> None:
    if not importances:
        empty_panel(panel, "too few trials\nto tell importances")
        return
    shown = importances[:_MOST_BARS]
    objectives = [name for name in _OBJECTIVES if any(name in each.shares for each in shown)]
    place, width = np.arange(len(shown)), 0.8 / len(objectives)
    for order, name in enumerate(objectives):
        label, colour = _OBJECTIVES[name]
        offset = (order - (len(objectives) - 1) / 2) * width
        share = [each.shares.get(name, 0.0) for each in shown]
        panel.barh(place + offset, share, width, color=colour, linewidth=0, label=f"of the {label}")
    panel.set_yticks(place, [each.setting.replace("_", " ") for each in shown])
    panel.tick_params(axis="y", length=0)
    panel.invert_yaxis()
    panel.xaxis.set_major_locator(MaxNLocator(2))
    panel.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))


def _caption(slices: Sequence[Slice], importances: Sequence[Importance]) -> str:
    trials = max((len(each.value) for each in slices), default=0)
    drawn = (
        f"Each dot is one of up to {trials} complete trials of the search that have the setting: the modelled loss "
        "over the plain model's against it, coloured by the share of decisions that are left to the router. Thresholds that "
        "differ from layer to layer stand by their mean. The search gathers where it expects better trials, so "
        "that the density of dots is its choice."
        if slices
        else "No setting with numbers was searched."
    )
    return f"Which settings matter? {drawn} {_importance_words(importances)}"


def _importance_words(importances: Sequence[Importance]) -> str:
    if not importances:
        return "Importances could not be told from so few trials."
    most: list[Any] = []
    for name, (label, _) in _OBJECTIVES.items():
        own = [each for each in importances if name in each.shares]
        if own:
            first = max(own, key=lambda each: each.shares[name])
            most.append(f"{first.setting.replace('_', ' ')} of the {label} ({percent(first.shares[name])})")
    left = len(importances) - _MOST_BARS
    more = f" {left} further settings are not shown." if left > 0 else ""
    return (
        "Bars are the shares of what settings explain of the differences between trials (functional analysis of "
        f"variance); the most is explained by {' and by '.join(most)}.{more}"
    )
