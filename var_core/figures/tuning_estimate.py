"""Is the model of the loss right: what was estimated of the front's points against what the model came to."""

import warnings
from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter
from scipy import stats

from var_core.figures.sources import Drawing, Sources, number, percent
from var_core.figures.style import GREY, PAGE, legend_below, letter_panels, new_figure
from var_core.figures.tunings import (
    POINT_COLOURS,
    Floats,
    Measured,
    Point,
    intervals,
    mark_points,
    points_of,
    ring_chosen,
)

NEEDS = ("tuning",)
"""What must have been recorded of the run."""

_FEWEST = 3
"""Points that a rank correlation needs."""

Measure = Callable[[Point], Measured]


def draw(sources: Sources) -> Drawing:
    """Draw measured against estimated loss, and measured against estimated learned share."""
    points = points_of(sources)
    figure = new_figure(PAGE, 3.2)
    panels = list(figure.subplots(1, 2))
    measures: tuple[Measure, ...] = (lambda point: point.loss_difference, lambda point: point.learned_share)
    for panel, measure in zip(panels, measures, strict=True):
        _draw_points(panel, points, measure)
    panels[0].set(xlabel="estimated (nats a token)", ylabel="measured (nats a token)")
    panels[1].set(xlabel="estimated share", ylabel="measured share")
    for axis in (panels[1].xaxis, panels[1].yaxis):
        axis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    found = [rank_correlation([measure(point) for point in points]) for measure in measures]
    letter_panels(
        panels,
        [f"{what}, {_words(rho, len(points))}" for what, rho in zip(("loss difference", "learned share"), found,
                                                                   strict=True)],
    )  # fmt: skip
    legend_below(figure, panels)
    return Drawing(figure, _caption(points, found, sources))


def rank_correlation(measured: Sequence[Measured]) -> float | None:
    """Spearman's rank correlation of estimated and measured values; None where it is not defined."""
    pairs = [(each.estimated, each.value) for each in measured if np.isfinite([each.estimated, each.value]).all()]
    if len(pairs) < _FEWEST:
        return None
    with warnings.catch_warnings():
        # All the same: said by a NaN, too.
        warnings.simplefilter("ignore", stats.ConstantInputWarning)
        rho = float(stats.spearmanr(np.array(pairs)).statistic)
    return None if np.isnan(rho) else rho


def _words(rho: float | None, points: int) -> str:
    return f"{points} points" if rho is None else f"ρ = {number(rho)} ({points} points)"


def _draw_points(panel: Axes, points: Sequence[Point], measure: Measure) -> None:
    for kind, colour in POINT_COLOURS.items():
        own = [measure(point) for point in points if point.kind == kind]
        if own:
            x, y, low, high = _columns(own)
            panel.vlines(x, low, high, color=colour, linewidth=1.0)
            mark_points(panel, kind, x, y)
    chosen = [measure(point) for point in points if point.chosen]
    ring_chosen(panel, [each.estimated for each in chosen], [each.value for each in chosen])
    panel.axline((0, 0), slope=1.0, color=GREY, linewidth=0.9, linestyle="--", zorder=1.5, label="as estimated")


def _columns(measured: Sequence[Measured]) -> Floats:
    return np.array([(each.estimated, each.value, each.low, each.high) for each in measured], dtype=np.float64).T


def _caption(points: Sequence[Point], found: Sequence[float | None], sources: Sources) -> str:
    losses = [point.loss_difference for point in points]
    finite = [each for each in losses if np.isfinite(each.low)]
    covered = sum(each.low <= each.estimated <= each.high for each in finite)
    error = float(np.median([abs(each.value - each.estimated) for each in losses]))
    inside = f" {covered} of {len(finite)} estimates lie inside." if finite else ""
    loss, share = (number(rho) if rho is not None else "not defined" for rho in found)
    return (
        "Does a policy cost what the search said it would? (a) The loss over the plain model's of the points that the "
        "model was run with on the tuning split, against what was modelled from replaying the calibration trace. "
        f"On the dashed line both are equal. {intervals(sources)}"
        f"{inside} Half of the estimates are off by no more than {number(error, 4)} nats; Spearman's rank correlation "
        f"is {loss}. (b) The same of the share of decisions that the router makes, whose rank correlation is "
        f"{share}. {_chosen(points)}"
    )


def _chosen(points: Sequence[Point]) -> str:
    return " ".join(
        f"The chosen point (ringed) was estimated at {number(point.loss_difference.estimated, 4, sign=True)} nats and "
        f"{percent(point.learned_share.estimated)} and measured at "
        f"{number(point.loss_difference.value, 4, sign=True)} and {percent(point.learned_share.value)}. It was "
        "chosen for what it measured, so this flatters it: the held-out split tells by how much."
        for point in points
        if point.chosen
    )
