"""How consistently the most frequent tokens are sent to the same experts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from var_core.figures.by_layer import FEW, columns, layer_axis, null_columns, series
from var_core.figures.sources import Drawing, Sources, number, with_interval
from var_core.figures.style import (
    CHANCE,
    CRITERION,
    HELDOUT,
    NULL,
    OBSERVED,
    ORANGE,
    PAGE,
    empty_panel,
    legend_below,
    letter_panels,
    level,
    new_figure,
)
from var_core.hypotheses.data import Layer
from var_core.hypotheses.frequent import most_frequent
from var_core.hypotheses.h3 import DEFINITIONS
from var_core.hypotheses.results import Result
from var_core.statistics.measures import first_repeat_chance, global_table, recalled_slots, slot_overlap_chance

Floats = NDArray[np.float64]

_HELDOUT = ("on held-out text", "mean recall_at_k")
_QUARTILES = (0.25, 0.75)


NEEDS = ("token_ids",)
"""What must have been recorded of the run."""


def draw(sources: Sources) -> Drawing:
    """Draw three definitions of routing consistency, and the recall on held-out text, by layer."""
    types = measure_types(sources)
    figure = new_figure(PAGE, 2.6)
    panels = list(figure.subplots(1, 4, sharey=True))
    recorded = sources.data.recorded
    for panel, name in zip(panels, DEFINITIONS, strict=False):
        if name == "modal_share" and not recorded.weights:
            empty_panel(panel, "weights were\nnot recorded")
        else:
            _draw_definition(panel, name, types, sources)
    if recorded.heldout:
        _draw_heldout(panels[3], types, sources)
    else:
        empty_panel(panels[3], "nothing was\nheld out")
    stated = sources.tested.h3.stated_measure
    titles = [f"{name} (stated)" if name == stated else name for name in DEFINITIONS]
    letter_panels(panels, [*titles, "recall, held out"])
    panels[0 if recorded.weights else 1].set_ylabel("mean over token types")
    panels[0].set_ylim(0, 1.03)
    legend_below(figure, panels, ncols=4)
    return Drawing(figure, _caption(types, sources))


def consistency_rows(name: str, sources: Sources, layer: int | None) -> Result:
    """Find the row of a definition; the one that the verdict as stated uses has a variant of its own."""
    variant = "as stated" if name == sources.tested.h3.stated_measure else "other definition"
    return sources.result("H3", variant, f"mean {name}", layer)


@dataclass(frozen=True)
class Types:
    """What the verdicts do not hold about the most frequent token types.

    Attributes
    ----------
    quartiles : mapping of str to float array, shape (L, 2)
        Definition of consistency -> lower and upper quartile over the types, by layer.
    global_recall : float array, shape (L,)
        Held-out recall of the same k experts for every token, mean over the types.
    """

    quartiles: Mapping[str, Floats]
    global_recall: Floats


def measure_types(sources: Sources) -> Types:
    """Measure the most frequent types of each layer."""
    quartiles: dict[str, list[Floats]] = {name: [] for name in DEFINITIONS}
    recalls = []
    for layer in sources.layers:
        counts, heldout = sources.data.expert_counts(layer), sources.data.expert_counts(layer, "heldout")
        top = most_frequent(counts.n, sources.tested.h3.most_frequent)
        for name, definition in DEFINITIONS.items():
            quartiles[name].append(np.quantile(definition(counts, layer.top_k)[top], _QUARTILES))
        chosen = heldout.chosen[top]
        slots = chosen.sum(axis=1)
        recalled = recalled_slots(global_table(counts.chosen, layer.top_k), chosen)
        recalls.append((recalled[slots > 0] / slots[slots > 0]).mean() if slots.any() else np.nan)
    return Types({name: np.array(rows) for name, rows in quartiles.items()}, np.array(recalls))


def _draw_definition(panel: Axes, name: str, types: Types, sources: Sources) -> None:
    layers = sources.layers
    rows = [consistency_rows(name, sources, layer.layer) for layer in layers]
    low, high = types.quartiles[name].T
    _draw_spread(panel, layers, low, high)
    series(panel, layers, *columns(rows), colour=OBSERVED, label="counted, with interval")
    series(panel, layers, *null_columns(rows), colour=NULL, label="null: load only", marker="s", filled=False)
    chance = first_repeat_chance if name == "modal_share" else None
    _draw_levels(panel, sources, [chance(layer.experts) if chance else _slot_chance(layer) for layer in layers])


def _draw_heldout(panel: Axes, types: Types, sources: Sources) -> None:
    layers = sources.layers
    rows = sources.results_by_layer("H3", *_HELDOUT)
    series(panel, layers, *columns(rows), colour=HELDOUT, label="on held-out text", marker="D")
    series(panel, layers, *null_columns(rows), colour=NULL, label="null: labels shuffled", marker="^", filled=False)
    series(panel, layers, types.global_recall, colour=ORANGE, label="global table", marker="X")
    _draw_levels(panel, sources, [_slot_chance(layer) for layer in layers])


def _slot_chance(layer: Layer) -> float:
    return slot_overlap_chance(layer.experts, layer.top_k)


def _draw_spread(panel: Axes, layers: Sequence[Layer], low: Floats, high: Floats) -> None:
    """Draw the middle half of the types behind their mean."""
    place, label = [layer.layer for layer in layers], "middle half of the types"
    if len(layers) > FEW:
        panel.fill_between(place, low, high, color=OBSERVED, alpha=0.15, linewidth=0, label=label)
    else:
        panel.vlines(place, low, high, color=OBSERVED, alpha=0.2, linewidth=6.0, label=label)


def _draw_levels(panel: Axes, sources: Sources, chances: Sequence[float]) -> None:
    layers = sources.layers
    edges = np.append([layer.layer - 0.5 for layer in layers], layers[-1].layer + 0.5)
    panel.stairs(chances, edges, baseline=None, color=CHANCE, linestyle=":", linewidth=1.0, label="chance")
    asked = sources.tested.h3.consistency_above
    level(panel, asked, CRITERION, label=f"H3 asks for more than {asked:g}")
    layer_axis(panel, layers)


def _caption(types: Types, sources: Sources) -> str:
    settings = sources.tested.h3
    rows = {name: consistency_rows(name, sources, None) for name in DEFINITIONS}
    told = "; ".join(
        f"{name} {with_interval(row)}, null {number(row.null_mean)}: {row.verdict}"
        if row.statistic is not None
        else f"{name} {row.note}"
        for name, row in rows.items()
    )
    n = max(row.n for row in rows.values())
    return (
        f"Are the most frequent tokens always sent to the same experts? Mean over the {n:,} most "
        "frequent token types, by layer, with intervals; pale bars span the middle half of the types, open squares "
        "are routing by the layer's load alone, with two standard deviations, and dotted lines a blind guess. (a-c) "
        "Three definitions of consistency, each scored on the text that a type's favourite experts are found on, so "
        f"they flatter. Over all layers: {told}. The claim asks for more than {settings.consistency_above:g}; as "
        f"first stated it is about {settings.stated_measure}. (d) {_heldout_told(types, sources)}"
    )


def _heldout_told(types: Types, sources: Sources) -> str:
    missing = sources.data.recorded.missing("heldout")
    if missing:
        return f"Recall on unseen text is not known: {missing}."
    heldout, blind = sources.result("H3", *_HELDOUT), float(np.mean(types.global_recall))
    return (
        "Recall on unseen text, the share of slots that fall on the type's own k experts: "
        f"{with_interval(heldout)}, against {number(heldout.null_mean)} with the entries shuffled over these types "
        f"and {number(blind)} with the same k experts for all tokens: {heldout.verdict}."
    )
