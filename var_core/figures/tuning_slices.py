"""What each setting does: loss and learned share of the search's trials against it, and how much it matters."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import SubFigure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter, SymmetricalLogLocator

from var_core.figures.importances import (
    Importance,
    draw_importances,
    importance_words,
    measure_importances,
)
from var_core.figures.sources import Drawing, Sources
from var_core.figures.style import (
    PAGE,
    SEQUENTIAL,
    TEXT,
    empty_panel,
    legend_below,
    letter_panels,
    new_figure,
)
from var_core.figures.tunings import Floats
from var_core.tuning.trials import SEARCH

NEEDS = ("tuning",)
"""What must have been recorded of the run."""

_COLUMNS = 4
_MOST_TICKS = 5
_MANY = 150
"""More trials than this are drawn smaller."""
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
_LOGARITHMIC = ("frequency_threshold", "time_to_live")
_CHOICES = ("capacity",)
"""Settings of few values, which stand side by side."""
_WHOLE = ("context_window", "frequency_threshold", "time_to_live")


@dataclass(frozen=True)
class Slice:
    """A setting of the trials that have it, and what came of them; thresholds of layers by their mean."""

    setting: str
    value: Floats
    learned_share: Floats
    loss_difference: Floats


def draw(sources: Sources) -> Drawing:
    """Draw a panel a setting with numbers, and bars of importances."""
    slices, importances = measure_slices(sources), measure_importances(sources)
    heights = 0.35 + 1.35 * max(math.ceil(len(slices) / _COLUMNS), 1), 0.75 + 0.16 * max(len(importances), 2)
    figure = new_figure(PAGE, sum(heights))
    top, bottom = figure.subfigures(2, 1, squeeze=False, height_ratios=heights)[:, 0]
    panels = _draw_slices(top, slices)
    bars = bottom.subplots()
    draw_importances(bars, importances)
    if importances:
        legend_below(bottom, [bars])
    titles = [_NUMERIC[each.setting] for each in slices] or ["settings with numbers"]
    letter_panels([*panels, bars], [*titles, "importance"])
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


def _draw_slices(part: SubFigure, slices: Sequence[Slice]) -> list[Axes]:
    if not slices:
        panel = part.subplots()
        empty_panel(panel, "no setting with numbers was searched")
        return [panel]
    shape = math.ceil(len(slices) / _COLUMNS), min(_COLUMNS, len(slices))
    grid = part.subplots(*shape, sharey=True, squeeze=False)
    colours = ScalarMappable(Normalize(0, 1), SEQUENTIAL)
    size = 4 if max(len(each.value) for each in slices) > _MANY else 10
    for panel, each in zip(grid.flat, slices, strict=False):
        panel.scatter(
            _scale(panel, each), each.loss_difference, c=each.learned_share, cmap=colours.cmap, norm=colours.norm,
            s=size, linewidths=0, alpha=0.8,
        )  # fmt: skip
    for panel in grid.flat[len(slices) :]:
        panel.remove()
    panels = list(grid.flat[: len(slices)])
    part.supylabel("loss difference (nats)", fontsize=TEXT)
    bar = part.colorbar(colours, ax=panels, location="right", pad=0.02, aspect=25, format=PercentFormatter(1.0))
    bar.set_label("learned share")
    return panels


def _scale(panel: Axes, each: Slice) -> Floats:
    """Scale a panel's x axis for a setting, and give the places of its values."""
    value = each.value
    if each.setting in _CHOICES:
        choices = np.unique(value)
        step = math.ceil(len(choices) / _MOST_TICKS)
        panel.set_xticks(range(0, len(choices), step), [f"{choice:g}" for choice in choices[::step]])
        return np.searchsorted(choices, value).astype(np.float64)
    if each.setting in _LOGARITHMIC and value.max() > 20 * max(value.min(), 1.0):
        panel.set_xscale("symlog", linthresh=1.0, linscale=0.5)
        panel.xaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=1.0))
        panel.xaxis.set_major_formatter(FuncFormatter(lambda tick, _: _short(tick)))
    else:
        panel.xaxis.set_major_locator(MaxNLocator(4, integer=each.setting in _WHOLE))
    return value


def _short(value: float) -> str:
    """Write a round number in few characters."""
    return f"{value / 1000:g}k" if value >= 1000 else f"{value:g}"


def _caption(slices: Sequence[Slice], importances: Sequence[Importance]) -> str:
    trials = max((len(each.value) for each in slices), default=0)
    drawn = (
        f"Each dot is one of up to {trials} complete trials of the search that have the setting: the modelled loss "
        "over the plain model's against it, coloured by the share of decisions that are left to the router. "
        "Thresholds that differ from layer to layer stand by their mean. The search gathers where it expects better "
        "trials, so that the density of dots is its choice."
        if slices
        else "No setting with numbers was searched."
    )
    return f"Which settings matter? {drawn} {importance_words(importances)}"
