"""What tables by more than the token gain over tables by the token alone, at equal coverage."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from var_core.figures.by_layer import columns, layer_axis, series
from var_core.figures.policies import Estimate, confidence, nothing_to_draw
from var_core.figures.sources import Drawing, Sources, percent, shown_layers, spread_layers, with_interval
from var_core.figures.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PAGE,
    legend_below,
    letter_panels,
    level,
    new_figure,
    sequence_colours,
)
from var_core.hypotheses.data import Layer

Gains = dict[int, dict[float, Estimate]]
"""Layer -> coverage -> gain."""

NEEDS = ("policy",)
"""What must have been recorded of the run."""

_MOST_LINES = 5
_CHOSEN = ((0.2, BLUE, "o"), (0.5, ORANGE, "s"), (1.0, GREEN, "^"))


def draw(sources: Sources) -> Drawing:
    """Draw the gain against coverage at each layer, and by layer at some coverages."""
    gains = measure_gains(sources)
    if not gains:
        return nothing_to_draw(
            "gain over tables by token id",
            "the policy has no tables but those by token id",
            "What do tables by more than the token gain? This policy has no tables but those by token id, so there is "
            "nothing to compare.",
        )
    shown = spread_layers([layer for layer in sources.layers if layer.layer in gains], _MOST_LINES)
    figure = new_figure(PAGE, 2.8)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1.2, 1.0))
    _draw_lines(left, gains, shown)
    _draw_by_layer(right, gains, sources.layers)
    left.set_ylabel("gain in held-out set agreement")
    letter_panels([left, right], ["by coverage, each layer a line", "by layer, at some coverages"])
    legend_below(figure, [left, right])
    return Drawing(figure, _caption(gains, shown, sources))


def measure_gains(sources: Sources) -> Gains:
    """Gains in set agreement; empty for a policy with tables by token id alone."""
    table = sources.query(
        """
        SELECT layer, coverage, gain, low, high FROM policy_gains
        WHERE run = $run AND measure = 'set_agreement' ORDER BY layer, coverage
        """
    )
    gains: Gains = {}
    for row in table.to_pylist():
        estimate = Estimate(row["gain"], row["low"], row["high"])
        gains.setdefault(row["layer"], {})[round(row["coverage"], 6)] = estimate
    return gains


def _draw_lines(panel: Axes, gains: Gains, shown: Sequence[Layer]) -> None:
    level(panel, 0.0, GREY, "-")
    for layer, colour in zip(shown, sequence_colours(len(shown)), strict=True):
        coverage = np.array(list(gains[layer.layer]))
        value, low, high = columns(list(gains[layer.layer].values()))
        panel.fill_between(coverage, low, high, color=colour, alpha=0.2, linewidth=0)
        panel.plot(coverage, value, color=colour, marker="o", markersize=2.5, label=f"layer {layer.layer}")
    panel.set_xlim(0, 1.02)
    panel.xaxis.set_major_formatter(PercentFormatter(1.0))
    panel.set_xlabel("coverage (share of unseen decisions)")


def _draw_by_layer(panel: Axes, gains: Gains, layers: Sequence[Layer]) -> None:
    level(panel, 0.0, GREY, "-")
    for (coverage, colour, marker), shift in zip(_CHOSEN, (-0.15, 0.0, 0.15), strict=True):
        own = columns([gains.get(layer.layer, {}).get(coverage, Estimate()) for layer in layers])
        series(panel, layers, *own, colour=colour, label=f"at {percent(coverage)}", marker=marker, shift=shift)
    layer_axis(panel, layers)


def _caption(gains: Gains, shown: Sequence[Layer], sources: Sources) -> str:
    return (
        "What do tables that also go by the token before, or by the place in the document, gain over tables by token "
        "id alone? Both cover the same share of the held-out decisions, each those that it is surest of by its own "
        "calibration; drawn is by how much more often the first are the very set of experts that the router chose. "
        f"{_best(gains)} Over layers the gain goes {_ranges(gains)}. Bands and bars are intervals of "
        f"{confidence(sources)} by a bootstrap over groups of documents, each by itself. At a "
        "coverage of all decisions the tables differ only in which experts they name, not in which decisions they "
        f"take.{shown_layers(shown, sources.layers)}"
    )


def _best(gains: Gains) -> str:
    layer, coverage, best = max(
        ((layer, coverage, each) for layer, own in gains.items() for coverage, each in own.items()),
        key=lambda found: found[2].statistic or 0.0,
    )
    gain = with_interval(best, 3, sign=True)
    return f"The largest gain is {gain}, at layer {layer} and a coverage of {percent(coverage)}."


def _ranges(gains: Gains) -> str:
    said = []
    for coverage, _, _ in _CHOSEN:
        own = [Estimate(each.statistic) for by in gains.values() for at, each in by.items() if at == coverage]
        ends = [choose(own, key=lambda each: each.statistic or 0.0) for choose in (min, max)]
        low, high = (with_interval(end, 3, sign=True) for end in ends)
        said.append(f"from {low} to {high} at {percent(coverage)}")
    return ", ".join(said)
