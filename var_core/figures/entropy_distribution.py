"""How undecided the router is: router entropies of held-out decisions, by layer."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from var_core.errors import VarError
from var_core.figures.by_layer import FEW, layer_axis
from var_core.figures.sources import Drawing, Sources, number, percent, short_percent, shown_layers, spread_layers
from var_core.figures.style import (
    BLUE,
    CRITERION,
    GREY,
    PAGE,
    legend_below,
    letter_panels,
    level,
    new_figure,
    sequence_colours,
    upright,
)
from var_core.hypotheses.data import Layer

Floats = NDArray[np.float64]

BINS = 1024
"""Bins of the histograms that quantiles are read from: one is ln E / 1024 nats wide."""
_BINS_OF_A_RIDGE = 64
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_MOST_RIDGES = 6


@dataclass(frozen=True)
class Entropies:
    """Router entropies of the held-out decisions of one layer.

    Attributes
    ----------
    layer : Layer
    histogram : int array, shape (BINS,)
        Decisions by entropy, from 0 to `highest`.
    highest : float
        Upper end of the histogram, in nats.
    below : int
        Decisions with an entropy below the criterion.
    """

    layer: Layer
    histogram: NDArray[np.int64]
    highest: float
    below: int

    @property
    def decisions(self) -> int:
        """All decisions."""
        return int(self.histogram.sum())

    @property
    def share_below(self) -> float:
        """Share of decisions below the criterion."""
        return self.below / self.decisions

    def quantiles(self, shares: Sequence[float]) -> Floats:
        """Entropies, in nats, that the given shares of decisions are below; to within a bin."""
        ends = np.linspace(0, self.highest, BINS + 1)
        return np.interp(shares, np.append(0, self.histogram.cumsum()) / self.decisions, ends)


NEEDS = ("token_ids", "logits", "heldout")
"""What must have been recorded of the run."""


def draw(sources: Sources) -> Drawing:
    """Draw the distribution of the router entropy of held-out decisions, by layer."""
    entropies = measure_entropies(sources)
    shown = spread_layers(sources.layers, _MOST_RIDGES)
    figure = new_figure(PAGE, 2.7)
    left, right = figure.subplots(1, 2, width_ratios=(1.25, 1.0))
    _draw_ridges(left, [each for each in entropies if each.layer in shown], sources)
    _draw_quantiles(right, entropies, sources)
    letter_panels([left, right], ["Held-out decisions by entropy", "Quantiles by layer"])
    legend_below(figure, [right])
    return Drawing(figure, _caption(entropies, shown, sources))


def measure_entropies(sources: Sources) -> list[Entropies]:
    """Histogram of the router entropies of each layer's held-out decisions; special tokens are left out.

    Raises
    ------
    VarError
        If a layer has no held-out trace.
    """
    highest = float(np.log(max(layer.experts for layer in sources.layers)))
    rows = sources.query(
        f"""
        SELECT layer, least(greatest(floor(router_entropy / $highest * {BINS}), 0), {BINS - 1})::INTEGER AS bin,
            count(*) AS decisions, count(*) FILTER (router_entropy < $criterion) AS below
        FROM traces
        WHERE run = $run AND split = 'heldout'
            AND token_id NOT IN (SELECT token_id FROM tokens WHERE run = $run AND special)
        GROUP BY layer, bin
        """,
        highest=highest,
        criterion=sources.tested.h4.entropy_below,
    )
    of_layer, place, decisions, below = (
        rows.column(name).to_numpy() for name in ("layer", "bin", "decisions", "below")
    )
    entropies = []
    for layer in sources.layers:
        mine = of_layer == layer.layer
        if not mine.any():
            raise VarError(
                f"run {sources.run}: no held-out trace of layer {layer.layer}; add 'heldout' to capture.trace and "
                "capture again"
            )
        histogram = np.zeros(BINS, dtype=np.int64)
        histogram[place[mine]] = decisions[mine]
        entropies.append(Entropies(layer, histogram, highest, int(below[mine].sum())))
    return entropies


def _draw_ridges(panel: Axes, entropies: Sequence[Entropies], sources: Sources) -> None:
    """Draw one histogram above the other, the first layer at the bottom, all to the same scale."""
    highest = entropies[0].highest
    ends = np.linspace(0, highest, _BINS_OF_A_RIDGE + 1)
    ridges = [each.histogram.reshape(_BINS_OF_A_RIDGE, -1).sum(axis=1) / each.decisions for each in entropies]
    tallest = max(ridge.max() for ridge in ridges)
    for row, (each, ridge, colour) in enumerate(zip(entropies, ridges, sequence_colours(len(ridges)), strict=True)):
        height = 0.92 * ridge / tallest
        panel.stairs(row + height, ends, baseline=row, fill=True, color=colour, alpha=0.75, linewidth=0)
        panel.stairs(row + height, ends, baseline=None, color=colour, linewidth=0.8)
        panel.annotate(
            short_percent(each.share_below), (1, row + 0.25), (4, 0), ("axes fraction", "data"), "offset points",
            va="center", annotation_clip=False,
        )  # fmt: skip
    criterion = sources.tested.h4.entropy_below
    panel.annotate(
        f"< {criterion:g}", (1, len(ridges)), (4, 0), ("axes fraction", "data"), "offset points", color=CRITERION,
        va="center", annotation_clip=False,
    )  # fmt: skip
    upright(panel, criterion)
    upright(panel, highest, GREY, ":")
    panel.set_yticks(range(len(ridges)), [f"layer {each.layer.layer}" for each in entropies], va="bottom")
    panel.tick_params(axis="y", length=0)
    panel.spines["left"].set_visible(False)
    panel.set_xlim(0, highest * 1.02)
    panel.set_ylim(0, len(ridges) + 0.15)
    panel.set_xlabel("router entropy (nats)")


def _draw_quantiles(panel: Axes, entropies: Sequence[Entropies], sources: Sources) -> None:
    layers = [each.layer for each in entropies]
    place = np.array([layer.layer for layer in layers], dtype=np.float64)
    lowest, low, middle, high, top = np.array([each.quantiles(_QUANTILES) for each in entropies]).T
    if len(layers) > FEW:
        panel.fill_between(place, lowest, top, color=BLUE, alpha=0.2, linewidth=0, label="5 to 95 %")
        panel.fill_between(place, low, high, color=BLUE, alpha=0.4, linewidth=0, label="25 to 75 %")
        panel.plot(place, middle, color=BLUE, label="median")
    else:
        panel.vlines(place, lowest, top, color=BLUE, linewidth=1.0, label="5 to 95 %")
        panel.vlines(place, low, high, color=BLUE, linewidth=5.0, alpha=0.5, label="25 to 75 %")
        panel.plot(place, middle, "o", color=BLUE, markeredgecolor="white", markeredgewidth=0.6, label="median")
    criterion = sources.tested.h4.entropy_below
    level(panel, criterion, label=f"criterion, {criterion:g} nats")
    level(panel, entropies[0].highest, GREY, ":", label="ln E: all experts alike")
    layer_axis(panel, layers)
    panel.set_ylim(0, entropies[0].highest * 1.05)
    panel.set_ylabel("router entropy (nats)")


def _caption(entropies: Sequence[Entropies], shown: Sequence[Layer], sources: Sources) -> str:
    decisions = sum(each.decisions for each in entropies)
    criterion, highest = sources.tested.h4.entropy_below, entropies[0].highest
    below = sum(each.below for each in entropies) / decisions
    medians = [float(each.quantiles([0.5])[0]) for each in entropies]
    return (
        f"How undecided is the router? (a) Histograms of the router entropy of {decisions:,} held-out decisions, all "
        f"layers to the same scale; at the right the share below {criterion:g} "
        f"nats.{shown_layers(shown, sources.layers)} (b) Quantiles in every layer. The highest entropy possible, "
        f"with all experts equally likely, is {number(highest)} nats; the medians of the layers run from "
        f"{number(min(medians))} to {number(max(medians))} nats. Below the classic criterion of {criterion:g} nats "
        f"are {percent(below)} of the decisions. An undecided router can be predictable all the same: its entropy "
        "says how evenly it weighs the experts, and not whether the same ones win every time."
    )
