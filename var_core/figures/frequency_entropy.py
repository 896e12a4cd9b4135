"""Whether frequent tokens route with lower entropy, or only seem to."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import SubFigure
from matplotlib.ticker import EngFormatter, LogLocator, MultipleLocator, NullLocator
from numpy.typing import NDArray

from var_core.figures.by_layer import columns, layer_axis, null_columns, series
from var_core.figures.sources import Drawing, Sources, minus, number, with_interval
from var_core.figures.style import (
    BLACK,
    BLUE,
    CRITERION,
    GREEN,
    GREY,
    ORANGE,
    PAGE,
    empty_panel,
    legend_below,
    letter_panels,
    level,
    new_figure,
)
from var_core.hypotheses.data import Layer
from var_core.hypotheses.nulls import load_only_counts
from var_core.hypotheses.resampling import generator
from var_core.hypotheses.results import Result
from var_core.statistics.measures import selection_entropy, selection_entropy_norm
from var_core.statistics.rarefaction import rarefied_selection_entropy

Floats = NDArray[np.float64]

MINIMUM_TYPES_OF_A_MEDIAN = 10
"""Token types that a point of the running median stands for, at least."""

NO_LOGITS = "router logits were not recorded"
_COLOURS = {"router": BLUE, "plug-in": ORANGE, "null": BLACK, "rarefied": GREEN}


@dataclass
class _Sum:
    """Values of all types, summed over layers; NaN for a type without a value at some layer."""

    total: Floats
    layers: int = 0

    def add(self, values: Floats) -> None:
        self.total += values
        self.layers += 1

    @property
    def mean(self) -> Floats:
        return self.total / max(self.layers, 1)


@dataclass
class Clouds:
    """What the upper panels show, a value for each token type.

    Attributes
    ----------
    n : int array, shape (V,)
        Occurrences in the capture split.
    means : mapping of str to float array, shape (V,)
        ``router`` in nats; ``plug-in``, ``null`` and ``rarefied`` from 0 (always the same k experts) to 1 (all alike).
        Means over layers.
    """

    n: NDArray[np.int64]
    means: Mapping[str, Floats] = field(default_factory=dict)


NEEDS = ("token_ids",)
"""What must have been recorded of the run."""


def draw(sources: Sources) -> Drawing:
    """Draw frequency against entropy, the plug-in estimate beside what routing by load alone gives."""
    rows = _Rows(sources)
    figure = new_figure(PAGE, 3.9)
    top, bottom = figure.subfigures(2, 1, squeeze=False, height_ratios=(1.15, 1.0))[:, 0]
    upper, lower = list(top.subplots(1, 4)), bottom.subplots()
    _draw_clouds(top, upper, measure_clouds(sources), rows, sources)
    _draw_layers(lower, sources)
    legend_below(bottom, [lower])
    letter_panels([*upper, lower], [*_titles(sources), "Rank correlation with frequency, layer by layer"])
    return Drawing(figure, _caption(rows, sources))


class _Rows:
    """The rows of the verdicts that the panels stand for, over all layers."""

    def __init__(self, sources: Sources) -> None:
        self.router, self.plug_in, self.rarefied = (
            sources.result("H1", variant, measure) for variant, measure in _tests(sources)
        )


def _tests(sources: Sources) -> tuple[tuple[str, str], ...]:
    """Variant and measure of the three correlations."""
    settings = sources.tested.h1
    return (
        ("as stated", "spearman(frequency, mean_router_entropy)"),
        (f"plug-in, minimum count {settings.minimum_counts[0]}", "spearman(frequency, selection_entropy)"),
        (f"rarefied to {settings.rarefied_to} occurrences", "spearman(frequency, rarefied_selection_entropy)"),
    )


def _titles(sources: Sources) -> tuple[str, ...]:
    return (
        "Router entropy",
        "Selection, plug-in",
        "Its null: load only",
        f"Rarefied to {sources.tested.h1.rarefied_to}",
    )


def measure_clouds(sources: Sources) -> Clouds:
    """Mean over layers of each type's entropies, with one draw of the null.

    Types with fewer occurrences than the smallest minimum count of H1 are left out, as in its correlations.
    """
    data, settings = sources.data, sources.tested.h1
    sums = {name: _Sum(np.zeros(data.types)) for name in _COLOURS}
    for layer in sources.layers:
        counts, moments = data.expert_counts(layer), data.token_moments(layer.layer)
        random = generator(sources.tested.seed, "figure", "load", layer.layer)
        null = next(load_only_counts(counts, 1, random))
        sums["router"].add(moments.mean_router_entropy)
        sums["plug-in"].add(_scaled(selection_entropy(counts.chosen), layer))
        sums["null"].add(_scaled(selection_entropy(null.chosen), layer))
        rarefied = rarefied_selection_entropy(counts.chosen, counts.n, settings.rarefied_to)
        sums["rarefied"].add(_scaled(rarefied, layer))
    n = data.token_moments(sources.layers[0].layer).n
    kept = n >= settings.minimum_counts[0]
    return Clouds(n[kept], {name: total.mean[kept] for name, total in sums.items()})


def _scaled(entropy: Floats, layer: Layer) -> Floats:
    return selection_entropy_norm(entropy, layer.experts, layer.top_k)


def _draw_clouds(figure: SubFigure, panels: list[Axes], clouds: Clouds, rows: _Rows, sources: Sources) -> None:
    logits = sources.data.recorded.logits
    texts = (_rho(rows.router), _rho(rows.plug_in), _null_rho(rows.plug_in), _rho(rows.rarefied))
    most = max(int(clouds.n.max(initial=1)), 10)
    maximum = float(np.mean([np.log(layer.experts) for layer in sources.layers]))
    for panel, (name, values), text in zip(panels, clouds.means.items(), texts, strict=True):
        if name == "router" and not logits:
            empty_panel(panel, NO_LOGITS)
            continue
        top = maximum if name == "router" else 1.0
        panel.set_xscale("log")
        panel.set_xlim(0.8, most * 1.3)
        panel.set_ylim(0, top * 1.27)
        cloud = draw_cloud(panel, clouds.n, values, top)
        places, middle = running_median(clouds.n, values)
        panel.plot(places, middle, color=_COLOURS[name], linewidth=1.6, label="median")
        panel.text(0.97, 0.97, text, transform=panel.transAxes, ha="right", va="top")
        panel.xaxis.set_major_locator(LogLocator(numticks=5))
        panel.xaxis.set_minor_locator(NullLocator())
        panel.xaxis.set_major_formatter(EngFormatter(sep=""))
        panel.set_xlabel("occurrences")
        level(panel, top, GREY, ":")
    if logits:
        panels[0].set_ylabel("router entropy (nats)")
        panels[0].annotate("ln E", (0, maximum), (3, 2), ("axes fraction", "data"), "offset points", color=GREY)
    panels[1].set_ylabel("selection entropy (0 to 1)")
    for panel in panels[2:]:
        panel.sharey(panels[1])
        panel.tick_params(labelleft=False)
    bar = figure.colorbar(cloud, ax=panels, pad=0.01, aspect=25)
    bar.ax.yaxis.set_major_formatter(EngFormatter(sep=""))
    bar.set_label("token types")


def draw_cloud(panel: Axes, n: NDArray[np.int64], values: Floats, top: float) -> PolyCollection:
    """Bin token types into hexagons, darker where there are more; the same scale of darkness in every panel."""
    known = np.isfinite(values)
    return panel.hexbin(
        n[known],
        values[known],
        xscale="log",
        gridsize=(26, 16),
        extent=(0.0, float(np.log10(max(n.max(initial=1), 10))), 0.0, top),
        bins="log",
        mincnt=1,
        cmap="Greys",
        vmin=0.3,
        vmax=max(len(n) / 10, 10.0),
        linewidths=0.1,
    )


def running_median(n: NDArray[np.int64], values: Floats) -> tuple[Floats, Floats]:
    """Median over token types in steps of half an octave of frequency.

    Returns
    -------
    float array, shape (M,)
        Geometric mean of the frequencies of each step.
    float array, shape (M,)
        Median of the values; steps with fewer than ``MINIMUM_TYPES_OF_A_MEDIAN`` types are left out.
    """
    known = np.isfinite(values)
    frequency, values = np.log2(n[known]), values[known]
    step = np.floor(frequency * 2).astype(np.int64)
    places, middle = [], []
    for each in np.unique(step):
        inside = step == each
        if inside.sum() >= MINIMUM_TYPES_OF_A_MEDIAN:
            places.append(2 ** frequency[inside].mean())
            middle.append(np.median(values[inside]))
    return np.array(places), np.array(middle)


def _rho(row: Result) -> str:
    text = f"ρ = {number(row.statistic, 2, sign=True)}"
    if row.low is None or row.high is None:
        return text
    return f"{text}\n[{number(row.low, 2, sign=True)}, {number(row.high, 2, sign=True)}]"


def _null_rho(row: Result) -> str:
    text = f"ρ = {number(row.null_mean, 2, sign=True)}"
    return text if row.null_sd is None else f"{text}\n± {number(row.null_sd, 3)}"


def _draw_layers(panel: Axes, sources: Sources) -> None:
    layers = sources.layers
    of_router, *of_selection = _tests(sources)
    plug_in, rarefied = (sources.results_by_layer("H1", variant, measure) for variant, measure in of_selection)
    if sources.data.recorded.logits:
        router = sources.results_by_layer("H1", *of_router)
        series(panel, layers, *columns(router), colour=_COLOURS["router"], label="router entropy", shift=-0.12)
    series(
        panel,
        layers,
        *columns(plug_in),
        colour=_COLOURS["plug-in"],
        label="selection, plug-in",
        marker="s",
        shift=-0.04,
    )
    series(panel, layers, *null_columns(plug_in), colour=_COLOURS["null"], label="its null", shift=0.04, filled=False)
    name = f"rarefied to {sources.tested.h1.rarefied_to}"
    series(panel, layers, *columns(rarefied), colour=_COLOURS["rarefied"], label=name, marker="D", shift=0.12)
    level(panel, sources.tested.h1.spearman_below, CRITERION, label="H1 asks for less")
    level(panel, 0.0, GREY, "-")
    layer_axis(panel, layers)
    panel.set_ylim(-1.05, 1.05)
    panel.set_ylabel("Spearman's ρ")
    panel.yaxis.set_major_locator(MultipleLocator(0.5))


def _caption(rows: _Rows, sources: Sources) -> str:
    settings, router, plug_in, rarefied = sources.tested.h1, rows.router, rows.plug_in, rows.rarefied
    of_router = (
        "The mean router entropy, in nats, which is unbiased however rarely a type was seen, has a rank correlation ρ "
        f"of {with_interval(router, sign=True)} with frequency. H1 asks for less than "
        f"{minus(settings.spearman_below)}: {router.verdict}."
    )
    if not sources.data.recorded.logits:
        of_router = f"The mean router entropy and its rank correlation ρ with frequency: {NO_LOGITS}."
    return (
        "Do frequent tokens route with lower entropy? Every token type of the capture split stands at its "
        "occurrences and its entropy, a mean over layers; darker hexagons hold more types, lines are running "
        "medians. "
        f"(a) {of_router} (b) The entropy of the chosen experts, taken at face "
        "value and scaled from 0, always the same experts, to 1, all alike, has "
        f"{with_interval(plug_in, sign=True)}. (c) But routing by the layer's load alone, whatever the token, has "
        f"{number(plug_in.null_mean, sign=True)} ± {number(plug_in.null_sd, 3)}, because a type that was seen a few "
        "times cannot show many experts: only the difference of (b) from (c) is about routing. (d) Rarefied to "
        f"{settings.rarefied_to} occurrences, where this bias is the same for all types, ρ is "
        f"{with_interval(rarefied, sign=True)} over {rarefied.n:,} types: {rarefied.verdict}. (e) The same "
        "correlations layer by layer, with intervals; for the null, two standard deviations."
    )
