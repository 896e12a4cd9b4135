"""How much each setting of a search matters: bars of importances, and what they say."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from var_core.figures.sources import Sources, percent
from var_core.figures.style import BLUE, VERMILLION, empty_panel
from var_core.tuning.trials import SEARCH

_MOST_BARS = 12
_OBJECTIVES = {"learned_share": ("learned share", BLUE), "loss_difference": ("loss difference", VERMILLION)}


@dataclass(frozen=True)
class Importance:
    """What a setting explains of each objective."""

    setting: str
    shares: dict[str, float]


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


def shown_bars(importances: Sequence[Importance]) -> int:
    """Number of settings that are shown."""
    return min(len(importances), _MOST_BARS)


def draw_importances(panel: Axes, importances: Sequence[Importance]) -> None:
    """Draw a bar a setting and objective."""
    if not importances:
        empty_panel(panel, "too few trials to tell importances")
        return
    shown = importances[: shown_bars(importances)]
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
    panel.xaxis.set_major_locator(MaxNLocator(6))
    panel.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))


def importance_words(importances: Sequence[Importance]) -> str:
    """Say in a caption what the bars are, and which are the longest."""
    if not importances:
        return "Importances could not be told from so few trials."
    most = []
    for name, (label, _) in _OBJECTIVES.items():
        own = [each for each in importances if name in each.shares]
        if own:
            first = max(own, key=lambda each: each.shares[name])
            most.append(f"of the {label} by {first.setting.replace('_', ' ')} ({percent(first.shares[name])})")
    left = len(importances) - _MOST_BARS
    more = f" {left} further settings are not shown." if left > 0 else ""
    return (
        "Bars are the shares of what settings explain of the differences between trials (functional analysis of "
        f"variance), most {' and '.join(most)}.{more}"
    )
