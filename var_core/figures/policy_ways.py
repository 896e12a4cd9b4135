"""Which way decisions take at each layer, and how the replaced ones agree with the router."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from var_core.evaluation import names
from var_core.figures.by_layer import FEW, columns, layer_axis, series
from var_core.figures.policies import NOTHING, SHARES, WAY_COLOURS, WAYS, Evaluation, confidence, extremes
from var_core.figures.sources import Drawing, Sources, number, percent
from var_core.figures.style import BLACK, PAGE, empty_panel, legend_below, letter_panels, new_figure
from var_core.hypotheses.data import Layer

NEEDS = ("policy",)
"""What must have been recorded of the run."""

_REPLACED = ("fast", "cached")
_LABELS = {"fast": "fast: from the tables", "cached": "cached: from the context", "learned": "learned: the router"}


def draw(sources: Sources) -> Drawing:
    """Draw shares of the ways by layer, of the policy and of the classic predicate, and agreement with its bounds."""
    evaluation, bounds = Evaluation(sources), certified(sources)
    figure = new_figure(PAGE, 2.7)
    panels = list(figure.subplots(1, 3, width_ratios=(1.2, 0.8, 1.4)))
    for panel, arm in zip(panels, (names.POLICY, names.CLASSIC), strict=False):
        if arm in evaluation.arms:
            _draw_shares(panel, evaluation, arm, sources.layers)
        else:
            empty_panel(panel, "not evaluated")
    _draw_agreement(panels[2], evaluation, bounds, sources.layers)
    letter_panels(panels, ["policy", "classic predicate", "agreement of the policy's decisions"])
    legend_below(figure, [panels[0], panels[2]], ncols=4)
    return Drawing(figure, _caption(evaluation, bounds, sources))


def certified(sources: Sources) -> dict[int, float]:
    """What the certificate promises of the agreement at each layer, at least; layers without a promise left out."""
    rows = sources.query(
        "SELECT layer, bound FROM certificates WHERE run = $run AND promise = 'set_agreement' ORDER BY layer"
    )
    return dict(zip(rows["layer"].to_pylist(), rows["bound"].to_pylist(), strict=True))


def _draw_shares(panel: Axes, evaluation: Evaluation, arm: str, layers: Sequence[Layer]) -> None:
    place = [layer.layer for layer in layers]
    floor = np.zeros(len(layers))
    for way in WAYS:
        share = np.nan_to_num(columns(evaluation.by_layer(arm, SHARES[way], layers))[0])
        width = 0.8 if len(layers) <= FEW else 1.0
        panel.bar(place, share, width, floor, color=WAY_COLOURS[way], linewidth=0, label=_LABELS[way])
        floor = floor + share
    layer_axis(panel, layers)
    panel.set_ylim(0, 1)
    panel.yaxis.set_major_formatter(PercentFormatter(1.0))
    panel.set_ylabel("share of decisions")


def _draw_agreement(panel: Axes, evaluation: Evaluation, bounds: Mapping[int, float], layers: Sequence[Layer]) -> None:
    lowest = [*bounds.values()]
    for measure, way, colour, marker, shift in (
        ("set_agreement_fast", "fast", WAY_COLOURS["fast"], "o", -0.16),
        ("set_agreement_cached", "cached", WAY_COLOURS["cached"], "s", 0.16),
        ("set_agreement", "both", BLACK, "D", 0.0),
    ):
        own = columns(evaluation.by_layer(names.POLICY, measure, layers))
        if not np.isnan(own[0]).all():
            label, filled = f"agreement, {way}", way != "both"
            series(panel, layers, *own, colour=colour, label=label, marker=marker, shift=shift, filled=filled)
            lowest += [float(each) for part in own for each in part if not np.isnan(each)]
    size = 12.0 if len(layers) <= FEW else 3.0
    panel.plot(
        list(bounds), list(bounds.values()), linestyle="none", marker="_", markersize=size, markeredgewidth=1.3,
        color=BLACK, label="certified, both",
    )  # fmt: skip
    layer_axis(panel, layers)
    panel.set_ylim(max(0.0, min(lowest, default=0.0) - 0.05), 1.01)
    panel.set_ylabel("set agreement with the router")


def _caption(evaluation: Evaluation, bounds: Mapping[int, float], sources: Sources) -> str:
    shares = {way: evaluation.find(names.POLICY, SHARES[way]) for way in WAYS}
    classic = evaluation.find(names.CLASSIC, SHARES["learned"])
    beside = ""
    if classic is not NOTHING:
        beside = (
            " (b) The same for the classic predicate, frequent token ids of low mean router entropy, with which "
            f"{percent(classic.statistic)} are left to the router."
        )
    return (
        "Who decides, and how well? (a) Share of the decisions on unseen text that the policy takes from its tables "
        f"(fast, {shares['fast'].shares} over all layers), from what it remembers of the same context (cached, "
        f"{shares['cached'].shares}), and leaves to the router (learned, {shares['learned'].shares}).{beside} (c) How "
        "often fast and cached decisions are the very set of experts that the router would have chosen at that place "
        f"of the running model: {_agreements(evaluation, sources)}Open diamonds are both together. Intervals of "
        f"{confidence(sources)} are by a bootstrap over groups of documents. {_promised(bounds, sources)}"
    )


def _agreements(evaluation: Evaluation, sources: Sources) -> str:
    said = []
    for way in _REPLACED:
        found = [
            (layer.layer, each.statistic)
            for layer, each in zip(
                sources.layers,
                evaluation.by_layer(names.POLICY, f"set_agreement_{way}", sources.layers),
                strict=True,
            )
            if each.statistic is not None
        ]
        said.append(f"{way} {extremes(found)}" if found else f"no decision was {way}")
    return "; ".join(said) + ". "


def _promised(bounds: Mapping[int, float], sources: Sources) -> str:
    if not bounds:
        return "Nothing is certified of the agreement."
    return (
        "Ticks are what the certificate promises of fast and cached decisions together, as a mean over sequences, "
        f"{extremes(list(bounds.items()))}; all promises hold together with a probability of at least "
        f"{number(held_together(sources))}."
    )


def held_together(sources: Sources) -> float:
    """Probability with which all promises of the certificate hold together."""
    [confidence] = sources.query("SELECT max(confidence) AS confidence FROM certificates WHERE run = $run")[
        "confidence"
    ].to_pylist()
    return float(confidence)
