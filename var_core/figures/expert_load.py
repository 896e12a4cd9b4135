"""How evenly the work is spread over experts, in all text and in each domain."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from var_core.figures.by_layer import layer_axis, series
from var_core.figures.ordering import MOST_NAMED
from var_core.figures.sources import Drawing, Sources, number
from var_core.figures.style import (
    BLACK,
    CATEGORIES,
    DIVERGING,
    GREY,
    PAGE,
    legend_below,
    letter_panels,
    level,
    new_figure,
    ratio_bar,
)
from var_core.statistics.measures import load_max_over_mean, load_variation

Floats = NDArray[np.float64]

ALL = "all text"
_MOST_DOMAINS = 3
_MARKERS = ("o", "s", "D", "^")
_COLOURS = (BLACK, *CATEGORIES)


@dataclass(frozen=True)
class Loads:
    """Decisions that chose each expert of each layer, in one part of the text.

    Attributes
    ----------
    name : str
        The domain, or ``all text``.
    chosen : list of int array, shape (E,)
        One for each layer, from the capture split.
    """

    name: str
    chosen: list[NDArray[np.int64]]

    @property
    def max_over_mean(self) -> Floats:
        """Load of the busiest expert over the mean load, by layer."""
        return np.array([load_max_over_mean(load) for load in self.chosen])

    @property
    def variation(self) -> Floats:
        """Coefficient of variation, by layer."""
        return np.array([load_variation(load) for load in self.chosen])

    def relative(self, order: Sequence[NDArray[np.int64]]) -> Floats:
        """Load over the mean load of the layer, experts in the given order; shape (L, E).

        NaN where a layer has fewer experts than others.
        """
        table = np.full((len(self.chosen), max(map(len, self.chosen))), np.nan)
        for row, (load, experts) in enumerate(zip(self.chosen, order, strict=True)):
            table[row, : len(load)] = load[experts] / max(load.mean(), 1e-12)
        return table


def draw(sources: Sources) -> Drawing:
    """Draw the load of every expert relative to an even one, and its summary by layer, for all text and by domain."""
    loads = measure_loads(sources)
    layers = len(sources.layers)
    maps = min(max(0.13 * layers, 0.75), 2.6)
    figure = new_figure(PAGE, 2.6 + maps)
    upper, lower = figure.subfigures(2, 1, squeeze=False, height_ratios=(maps + 0.8, 1.8))[:, 0]
    panels = list(upper.subplots(1, len(loads), sharey=True, squeeze=False)[0])
    image = _draw_maps(panels, loads, sources)
    bar = upper.colorbar(image, ax=panels, pad=0.01, aspect=12)
    ratio_bar(bar, "load / even load")
    summaries = list(lower.subplots(1, 2))
    _draw_summary(lower, summaries, loads, sources)
    titles = [_short(each.name) for each in loads]
    letter_panels([*panels, *summaries], [*titles, "busiest expert", "unevenness"])
    return Drawing(figure, _caption(loads, sources))


def _short(name: str, length: int = 16) -> str:
    """Cut a domain's name to what fits over a panel."""
    return name if len(name) <= length else f"{name[: length - 1]}…"


def measure_loads(sources: Sources) -> list[Loads]:
    """Loads of all text, then of each domain if there are several, those with the most tokens first."""
    rows = sources.query(
        """
        SELECT domain, layer, list(chosen ORDER BY expert) AS chosen, max(tokens) AS tokens
        FROM domain_counts WHERE run = $run AND split = 'capture'
        GROUP BY domain, layer ORDER BY layer, domain
        """
    ).to_pylist()
    by_domain: dict[str, list[NDArray[np.int64]]] = {}
    tokens: dict[str, int] = {}
    for row in rows:
        by_domain.setdefault(row["domain"], []).append(np.array(row["chosen"], dtype=np.int64))
        tokens[row["domain"]] = row["tokens"]
    everything = [np.sum(parts, axis=0) for parts in zip(*by_domain.values(), strict=True)]
    loads = [Loads(ALL, everything)]
    if len(by_domain) > 1:
        largest = sorted(by_domain, key=lambda name: (-tokens[name], name))[:_MOST_DOMAINS]
        loads += [Loads(name, by_domain[name]) for name in largest]
    return loads


def _draw_maps(panels: Sequence[Axes], loads: Sequence[Loads], sources: Sources) -> AxesImage:
    layers = sources.layers
    named = max(layer.experts for layer in layers) <= MOST_NAMED
    order = [np.arange(len(load)) if named else np.argsort(-load, kind="stable") for load in loads[0].chosen]
    tables = [np.log2(np.maximum(each.relative(order), 2.0**-6)) for each in loads]
    limit = float(np.clip(np.nanquantile(np.abs(np.stack(tables)), 0.99), 0.25, 3.0))
    for panel, table in zip(panels, tables, strict=True):
        edges = (-0.5, table.shape[1] - 0.5, layers[0].layer - 0.5, layers[-1].layer + 0.5)
        image = panel.imshow(
            table, cmap=DIVERGING, vmin=-limit, vmax=limit, aspect="auto", origin="lower", extent=edges, rasterized=True
        )
        panel.spines[:].set_visible(False)
        panel.yaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
        panel.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
        panel.set_xlabel("expert" if named else "expert, busiest first")
    panels[0].set_ylabel("MoE layer")
    return image


def _draw_summary(figure: Figure, panels: Sequence[Axes], loads: Sequence[Loads], sources: Sources) -> None:
    shifts = np.linspace(-0.15, 0.15, len(loads)) if len(loads) > 1 else np.zeros(1)
    for each, colour, marker, shift in zip(loads, _COLOURS, _MARKERS, shifts, strict=False):
        for panel, values in zip(panels, (each.max_over_mean, each.variation), strict=True):
            series(panel, sources.layers, values, colour=colour, label=each.name, marker=marker, shift=float(shift))
    for panel, name, even in zip(panels, ("max / mean load", "CV of the load"), (1.0, 0.0), strict=True):
        level(panel, even, GREY, ":", label="even")
        layer_axis(panel, sources.layers)
        panel.set_ylabel(name)
        panel.margins(y=0.08)
        panel.set_ylim(even - 0.06 * (panel.get_ylim()[1] - even), None)
    legend_below(figure, panels)


def _caption(loads: Sequence[Loads], sources: Sources) -> str:
    whole, layers = loads[0], [layer.layer for layer in sources.layers]
    worst = int(np.argmax(whole.max_over_mean))
    text = (
        "Is the work spread evenly over experts, and does that depend on the text? Upper row: how often each expert "
        "is chosen in the capture split over an even load of its layer; red is busier, blue idler. Lower row: load "
        "of the busiest expert over the mean, about the slow-down where each expert has a device of its own, and "
        "coefficient of variation (CV) over experts. In all text the busiest expert has "
        f"{number(whole.max_over_mean.mean())} times the mean load on average over layers, at most "
        f"{number(whole.max_over_mean[worst])} in layer {layers[worst]}, with a CV of "
        f"{number(whole.variation.mean())}."
    )
    if len(loads) == 1:
        return text
    most = max(loads[1:], key=lambda each: float(each.max_over_mean.mean()))
    return (
        f"{text} Where experts specialise in domains, the load is less even within one: most so in {most.name}, with "
        f"{number(most.max_over_mean.mean())} times the mean load and a CV of {number(most.variation.mean())}."
    )
