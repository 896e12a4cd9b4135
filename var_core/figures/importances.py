"""How much each setting of a search matters: bars of importances, and what they say."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from var_core.figures.sources import Sources, percent
from var_core.figures.style import BLUE, VERMILLION, empty_panel
from var_core.tuning.trials import SEARCH

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


def draw_importances(panel: Axes, importances: Sequence[Importance]) -> None:
    """Draw a bar a setting and objective."""
    if not importances:
        empty_panel(panel, "no setting differs between trials")
        return
    place, width = np.arange(len(importances)), 0.8 / len(_OBJECTIVES)
    for order, (name, (label, colour)) in enumerate(_OBJECTIVES.items()):
        share = [each.shares[name] for each in importances]
        panel.barh(place + (order - 0.5) * width, share, width, color=colour, linewidth=0, label=f"for the {label}")
    panel.set_yticks(place, [each.setting.replace("_", " ") for each in importances])
    panel.tick_params(axis="y", length=0)
    panel.invert_yaxis()
    panel.xaxis.set_major_locator(MaxNLocator(6))
    panel.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))


def importance_words(importances: Sequence[Importance]) -> str:
    """Say in a caption what the bars are, and which are the longest."""
    if not importances:
        return "No setting differs between trials, so that none has an importance."
    most = []
    for name, (label, _) in _OBJECTIVES.items():
        first = max(importances, key=lambda each: each.shares[name])
        most.append(f"{first.setting.replace('_', ' ')} for the {label} ({percent(first.shares[name])})")
    return (
        "Bars are what settings have to do with a trial's being among the best tenth (PED-ANOVA), as shares of "
        f"all; the largest are {' and '.join(most)}."
    )
