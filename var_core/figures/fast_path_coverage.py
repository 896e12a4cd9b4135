"""How much of the text a table from token to experts could route, and how well."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from var_core.figures.sources import Drawing, Sources, number, percent, with_interval
from var_core.figures.style import (
    CHANCE,
    CRITERION,
    HELDOUT,
    NULL,
    OBSERVED,
    ORANGE,
    PAGE,
    LineStyle,
    empty_panel,
    legend_below,
    letter_panels,
    level,
    new_figure,
    sequence_colours,
)
from var_core.hypotheses.agreement import MEASURES
from var_core.hypotheses.data import TokenMoments
from var_core.hypotheses.results import Curve, Result

Floats = NDArray[np.float64]


NEEDS = ("token_ids", "heldout", "curves")
"""What must have been recorded of the run."""


def draw(sources: Sources) -> Drawing:
    """Draw coverage against held-out agreement by each measure, and coverage by low entropy."""
    figure = new_figure(PAGE, 4.7)
    panels = list(figure.subplots(2, 2).flat)
    recorded = sources.data.recorded
    for panel, measure in zip(panels, MEASURES, strict=False):
        if measure == "top1_agreement" and not recorded.weights:
            empty_panel(panel, "weights were not recorded,\nso nobody knows first choices")
        else:
            _draw_curves(panel, measure, sources)
    if recorded.logits:
        _draw_classic(panels[3], sources)
    else:
        empty_panel(panels[3], "router logits were not recorded")
    used = sources.tested.h4.agreement_measure
    titles = [f"{measure}, used by the verdict" if measure == used else measure for measure in MEASURES]
    letter_panels(panels, [*titles, "the classic criterion: low entropy"])
    legend_below(figure, panels, ncols=4)
    return Drawing(figure, _caption(sources))


def entropy_coverage(layers: Sequence[TokenMoments], frequency_above: int) -> tuple[Floats, Floats]:
    """Share of occurrences of types that are frequent and have a mean router entropy up to a threshold.

    Parameters
    ----------
    layers : sequence of TokenMoments
        One layer, or several that are pooled: each (layer, type) then counts by itself.
    frequency_above : int
        Types with more occurrences than this are eligible.

    Returns
    -------
    float array, shape (M,)
        Thresholds in nats, ascending: the mean router entropies that occur among eligible types.
    float array, shape (M,)
        Share of all occurrences that are covered from that threshold on.
    """
    n = np.concatenate([moments.n for moments in layers])
    entropy = np.concatenate([moments.mean_router_entropy for moments in layers])
    eligible = n > frequency_above
    order = np.argsort(entropy[eligible], kind="stable")
    return entropy[eligible][order], n[eligible][order].cumsum() / n.sum()


def at_target(measure: str, sources: Sources) -> tuple[Result, Result]:
    """Coverage that was chosen to keep the agreement asked for, and the agreement that came of it."""
    target = sources.tested.h4.agreement_target
    return (
        sources.result("H4", "by agreement", f"coverage at {measure} >= {target:g}"),
        sources.result("H4", "by agreement, realised", f"{measure} of the covered"),
    )


def _draw_curves(panel: Axes, measure: str, sources: Sources) -> None:
    pooled, by_layer = sources.curves(measure)
    for curve, colour in zip(by_layer, sequence_colours(len(by_layer)), strict=True):
        label = "single layers" if curve is by_layer[-1] else None
        panel.plot(*_points(curve), color=colour, linewidth=0.6, alpha=0.7, label=label)
    low, high = (np.array(ends, dtype=np.float64) for ends in (pooled.low, pooled.high))
    panel.fill_between(pooled.coverage, low, high, color=HELDOUT, alpha=0.3, linewidth=0)
    panel.plot(*_points(pooled), color=HELDOUT, linewidth=1.8, label="token table, all layers")
    coverage, realised = at_target(measure, sources)
    _dot(panel, coverage.statistic, realised.statistic, HELDOUT, "chosen on other documents")
    _draw_controls(panel, pooled)
    wanted, target = sources.tested.h4.coverage_above, sources.tested.h4.agreement_target
    _ask(panel, (wanted, target), 1 - wanted, 1.05 - target)
    panel.set_xlim(0, 1)
    panel.set_ylim(0, 1.03)
    panel.xaxis.set_major_formatter(PercentFormatter(1.0))
    panel.set_xlabel("coverage (share of unseen decisions)")
    panel.set_ylabel("agreement of the covered")


def _draw_controls(panel: Axes, curve: Curve) -> None:
    """Draw what knows nothing of the token: whole tables over all decisions, so one value for any coverage."""
    controls: tuple[tuple[float | None, str, LineStyle, str], ...] = (
        (curve.global_table, ORANGE, "-.", "global table"),
        (curve.shuffled_labels, NULL, (0, (3, 1)), "labels shuffled"),
        (curve.chance, CHANCE, ":", "blind guess"),
    )
    for value, colour, style, label in controls:
        if value is not None:
            level(panel, value, colour, style, label)


def _draw_classic(panel: Axes, sources: Sources) -> None:
    settings = sources.tested.h4
    moments = [sources.data.token_moments(layer.layer) for layer in sources.layers]
    highest = float(np.log(max(layer.experts for layer in sources.layers)))
    for each, colour in zip(moments, sequence_colours(len(moments)), strict=True):
        x, y = _steps(*entropy_coverage([each], settings.frequency_above), highest)
        panel.step(x, y, where="post", color=colour, linewidth=0.6, alpha=0.7)
    x, y = _steps(*entropy_coverage(moments, settings.frequency_above), highest)
    panel.step(x, y, where="post", color=OBSERVED, linewidth=1.8, label="low entropy, all layers")
    _dot(panel, settings.entropy_below, _stated(sources).statistic, OBSERVED)
    _ask(panel, (0, settings.coverage_above), settings.entropy_below, 1.05 - settings.coverage_above)
    panel.set_xlim(0, highest)
    panel.set_ylim(0, 1.03)
    panel.yaxis.set_major_formatter(PercentFormatter(1.0))
    panel.set_xlabel("threshold on mean router entropy (nats)")
    panel.set_ylabel("coverage (share of decisions)")


def _stated(sources: Sources) -> Result:
    settings = sources.tested.h4
    measure = f"coverage, n > {settings.frequency_above} and entropy < {settings.entropy_below:g}"
    return sources.result("H4", "as stated", measure)


def _steps(threshold: Floats, coverage: Floats, highest: float) -> tuple[Floats, Floats]:
    """Continue coverage from a threshold of 0 to the highest entropy possible."""
    ends = coverage[-1:] if len(coverage) else np.zeros(1)
    return np.r_[0, threshold, highest], np.r_[0, coverage, ends]


def _dot(panel: Axes, x: float | None, y: float | None, colour: str, label: str | None = None) -> None:
    """Mark what a verdict is about, if there is anything."""
    if x is not None and y is not None:
        panel.scatter([x], [y], s=25, color=colour, edgecolors="black", zorder=4, clip_on=False, label=label)


def _ask(panel: Axes, corner: tuple[float, float], width: float, height: float) -> None:
    """Mark the region that a curve must reach for H4."""
    shade = Rectangle(corner, width, height, facecolor=CRITERION, alpha=0.12, linewidth=0, label="what H4 asks for")
    panel.add_patch(shade)
    panel.add_patch(Rectangle(corner, width, height, fill=False, edgecolor=CRITERION, linewidth=0.8, linestyle="--"))


def _points(curve: Curve) -> tuple[Floats, Floats]:
    return np.array(curve.coverage), np.array(curve.agreement, dtype=np.float64)


def _caption(sources: Sources) -> str:
    settings, stated = sources.tested.h4, _stated(sources)
    pooled, _ = sources.curves(settings.agreement_measure)
    classic = f"covers {percent(stated.statistic)} at {settings.entropy_below:g} nats: {stated.verdict}."
    if not sources.data.recorded.logits:
        classic = "is not known, because router logits were not recorded."
    return (
        "How much of the text could a table from token to experts route, and how well? The table is fitted on the "
        "capture split; held-out documents say which token types to cover, best first, and other held-out documents "
        "are what is drawn: the share of their decisions that is covered against the agreement of the covered with "
        "the learned router. Curves are of one way of halving these documents, dots are means over "
        f"{sources.tested.halvings} ways. Bands are intervals by a bootstrap over groups of documents, thin lines "
        "single layers, dark to light from the first to the last. The shaded corner is what H4 asks for, more than "
        f"{percent(settings.coverage_above)} at an agreement of at least {settings.agreement_target:g}. By "
        f"{settings.agreement_measure}, which the verdict uses, {_told(sources)} Controls over all decisions: the "
        f"same experts for every token {number(pooled.global_table)}, table entries shuffled over tokens "
        f"{number(pooled.shuffled_labels)}, a blind guess {number(pooled.chance)}. (d) The classic criterion, more "
        f"than {settings.frequency_above} occurrences and a mean router entropy below a threshold, {classic}"
    )


def _told(sources: Sources) -> str:
    """Say what can be covered at the target, and what came of it."""
    settings = sources.tested.h4
    coverage, realised = at_target(settings.agreement_measure, sources)
    if not coverage.statistic:
        return f"nothing can be covered at that agreement: {coverage.verdict}."
    interval = f" [{percent(coverage.low)}, {percent(coverage.high)}]" if coverage.low is not None else ""
    return (
        f"{percent(coverage.statistic)}{interval} can be covered (dot), with a realised agreement of "
        f"{with_interval(realised)}: {coverage.verdict}."
    )
