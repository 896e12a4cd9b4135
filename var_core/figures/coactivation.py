"""Which experts are chosen together: pairs beyond what their loads explain, by layer."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from var_core.figures.ordering import MOST_NAMED, related
from var_core.figures.sources import Drawing, Sources, number, shown_layers, spread_layers
from var_core.figures.style import (
    COLUMN,
    DIVERGING,
    LIGHT_GREY,
    PAGE,
    empty_panel,
    letter_panels,
    new_figure,
    ratio_bar,
)
from var_core.hypotheses.data import Layer
from var_core.statistics.measures import coactivation_lift

Floats = NDArray[np.float64]

_MOST_LAYERS = 4
_LEAST_RATIO = 2.0**-6
"""Pairs that never occur have no logarithm; they have the colour of this ratio."""
_LEAST_EXPECTED = 5.0
"""Pairs that are expected less often than this are too few to be named in the caption."""
_STEPS, _PRECISION = 10_000, 1e-10


@dataclass(frozen=True)
class Pairs:
    """How often the experts of a layer are chosen together.

    Attributes
    ----------
    layer : Layer
    counts : int array, shape (E, E)
        Decisions that chose both; the diagonal is each expert's load.
    tokens : int
        All decisions.
    """

    layer: Layer
    counts: NDArray[np.int64]
    tokens: int

    @property
    def lift(self) -> Floats:
        """N_ij N / (N_i N_j), shape (E, E)."""
        return coactivation_lift(self.counts, self.tokens)

    @property
    def expected(self) -> Floats:
        """Counts that the loads explain, see :func:`expected_pairs`; shape (E, E)."""
        return expected_pairs(self.counts)

    @property
    def ratio(self) -> Floats:
        """Counts over expected counts; NaN on the diagonal and for experts without a partner; shape (E, E)."""
        expected = self.expected
        return np.divide(self.counts, expected, out=np.full(expected.shape, np.nan), where=expected > 0)


NEEDS = ("pairs",)
"""What must have been recorded of the run."""


def draw(sources: Sources) -> Drawing:
    """Draw how many times as often as their loads explain each pair of experts is chosen, by layer."""
    shown = spread_layers(sources.layers, _MOST_LAYERS)
    panel_size = min(5.6 / len(shown), 2.4)
    figure = new_figure(PAGE if len(shown) > 1 else COLUMN, panel_size + 0.55)
    panels = list(figure.subplots(1, len(shown), squeeze=False)[0])
    if max(layer.top_k for layer in shown) < 2:
        for panel in panels:
            empty_panel(panel, "one expert a token:\nno pairs")
        return Drawing(figure, "Which experts are chosen together? None: this model chooses one expert a token.")
    pairs = [measure_pairs(sources, layer) for layer in shown]
    _draw_maps(figure, panels, pairs)
    letter_panels(panels, [f"layer {layer.layer}" for layer in shown])
    return Drawing(figure, _caption(pairs, sources))


def measure_pairs(sources: Sources, layer: Layer) -> Pairs:
    """Count the pairs of a layer in the capture split."""
    rows = sources.query(
        """
        SELECT expert, other_expert, count FROM coactivation
        WHERE run = $run AND split = 'capture' AND layer = $layer
        """,
        layer=layer.layer,
    )
    load = sources.query(
        "SELECT max(tokens) AS tokens FROM expert_load WHERE run = $run AND split = 'capture' AND layer = $layer",
        layer=layer.layer,
    )
    counts = np.zeros((layer.experts, layer.experts), dtype=np.int64)
    counts[rows.column("expert").to_numpy(), rows.column("other_expert").to_numpy()] = rows.column("count").to_numpy()
    return Pairs(layer, counts, int(load.column("tokens")[0].as_py()))


def expected_pairs(counts: NDArray[np.integer]) -> Floats:
    """Expected counts of pairs when the partners of an expert depend on their loads only.

    The k experts of a token differ, so even routing that ignores its input has a lift below 1, and the more so the
    busier the experts. What has no such trace is the model of quasi-independence, a_i a_j for i != j with a fixed zero
    diagonal and the row sums of the counts, found by iterative proportional fitting (Bishop, Fienberg and Holland
    1975, chapter 5).

    Parameters
    ----------
    counts : int array, shape (E, E)
        Symmetric; the diagonal is not looked at.

    Returns
    -------
    float array, shape (E, E)
        Symmetric, 0 on the diagonal.
    """
    rows = counts.sum(axis=1) - np.diagonal(counts).astype(np.float64)
    strength = np.sqrt(rows / max(np.sqrt(rows.sum()), 1.0))
    for _ in range(_STEPS):
        fitted = strength * (strength.sum() - strength)
        if np.abs(fitted - rows).max() <= _PRECISION * max(rows.max(), 1.0):
            break
        # Half a step on the logarithmic scale: a whole one would swing between two states, as rows are columns here.
        strength *= np.sqrt(np.divide(rows, fitted, out=np.zeros_like(rows), where=fitted > 0))
    expected = np.outer(strength, strength)
    np.fill_diagonal(expected, 0.0)
    return expected


def _draw_maps(figure: Figure, panels: Sequence[Axes], pairs: Sequence[Pairs]) -> None:
    tables = [np.log2(np.maximum(each.ratio, _LEAST_RATIO)) for each in pairs]
    known = np.concatenate([np.abs(table[np.isfinite(table)]) for table in tables])
    limit = float(np.clip(np.quantile(known, 0.98), 0.25, 3.0)) if len(known) else 1.0
    for panel, each, table in zip(panels, pairs, tables, strict=True):
        panel.set_facecolor(LIGHT_GREY)
        order = np.arange(len(table)) if len(table) <= MOST_NAMED else related(np.nan_to_num(table))
        shown = table[np.ix_(order, order)]
        image = panel.imshow(shown, cmap=DIVERGING, vmin=-limit, vmax=limit, rasterized=True)
        panel.spines[:].set_visible(False)
        _label_experts(panel, each.layer.experts)
    panels[0].set_ylabel(panels[0].get_xlabel())
    bar = figure.colorbar(image, ax=list(panels), pad=0.01, aspect=16, shrink=0.9, extend="both")
    ratio_bar(bar, "counted / expected")


def _label_experts(panel: Axes, experts: int) -> None:
    if experts > MOST_NAMED:
        panel.set_xticks([])
        panel.set_yticks([])
        panel.set_xlabel(f"{experts} experts, ordered")
        return
    for axis in (panel.xaxis, panel.yaxis):
        axis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    panel.set_xlabel("expert")


def _caption(pairs: Sequence[Pairs], sources: Sources) -> str:
    ordered = "" if pairs[0].layer.experts <= MOST_NAMED else " Experts that go together stand beside each other."
    told = "; ".join(_strongest(each) for each in pairs)
    return (
        "Which experts are chosen together? How many times as often as expected each pair is chosen for the same "
        "token of the capture split: red pairs go together, blue ones avoid each other, white ones are as their "
        "loads make them. Expected is what the loads alone explain when the experts of a token must differ "
        "(quasi-independence); against free choices every pair would look too "
        f"rare.{ordered}{shown_layers([each.layer for each in pairs], sources.layers)} Strongest pairs: {told}."
    )


def _strongest(pairs: Pairs) -> str:
    """Name the pair with the largest ratio among those expected often enough."""
    ratio = np.where(pairs.expected >= _LEAST_EXPECTED, pairs.ratio, np.nan)
    if np.isnan(ratio).all():
        return f"layer {pairs.layer.layer}, too few decisions to name one"
    first, second = (int(place) for place in np.unravel_index(np.nanargmax(ratio), ratio.shape))
    return (
        f"layer {pairs.layer.layer}, experts {first} and {second}, {number(ratio[first, second])} times as often as "
        f"expected (lift {number(pairs.lift[first, second])})"
    )
