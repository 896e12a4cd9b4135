"""What caches of experts find and move, by their size: loading on demand, and fetching what is predicted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from var_core.config.systems import CachesConfig
from var_core.figures.offloading import (
    BELADY,
    DEMANDED,
    LRU,
    PREDICTIONS,
    USABLE,
    Look,
    decoding,
    experts_of,
    smallest_batch,
    told_share,
)
from var_core.figures.sources import Drawing, Sources, number, percent, short_percent
from var_core.figures.style import (
    BLACK,
    COLUMN,
    LIGHT_GREY,
    PAGE,
    empty_panel,
    legend_below,
    letter_panels,
    new_figure,
)
from var_core.systems.names import DECODE

Floats = NDArray[np.float64]

NEEDS = ("systems",)
"""What must have been recorded of the run."""

_TITLES = ("found, loading on demand", "found, with prediction", "moved, with prediction")
_MARKERS = 8
_SHARED = {LRU: DEMANDED[LRU], BELADY: DEMANDED[BELADY]}


@dataclass(frozen=True)
class Curve:
    """A rule or a prediction by size of the cache, ascending; NaN where there is no interval or recall."""

    share: Floats
    hits: Floats
    low: Floats
    high: Floats
    loads: Floats
    recall: Floats

    def at(self, share: float) -> dict[str, float]:
        """The numbers at a size."""
        place = int(np.abs(self.share - share).argmin())
        return {name: float(getattr(self, name)[place]) for name in ("hits", "low", "high", "loads", "recall")}


@dataclass(frozen=True)
class Real:
    """What the model came to, run with experts that are not in memory; `replayed` is the hit rate that was foretold."""

    arm: str
    share: float
    hits: float
    loads: float
    replayed: float
    tokens: int


def draw(sources: Sources) -> Drawing:
    """Draw hit rates against size, on demand and with prediction, and loads beside the latter."""
    batch = smallest_batch(sources)
    if batch is None:
        return _nothing_decoded()
    curves, real = curves_of(sources, batch), real_run(sources)
    figure = new_figure(PAGE, 3.1)
    panels = list(figure.subplots(1, 3))
    _draw_curves(panels[0], curves, DEMANDED, "hits")
    predicted = {name: look for name, look in PREDICTIONS.items() if name in curves}
    for panel, measure in zip(panels[1:], ("hits", "loads"), strict=True):
        if predicted:
            _draw_curves(panel, curves, _SHARED | predicted, measure)
        else:
            empty_panel(panel, "no prediction was replayed")
    _beyond_belady(panels, curves)
    _draw_real(panels, real)
    for panel in panels:
        panel.set_xlabel("experts in memory (share of all)")
        panel.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        panel.set_xlim(0, 1)
    for panel in panels[:2]:
        panel.set_ylim(0, 1.02)
        panel.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        panel.set_ylabel("hit rate")
    panels[2].set_ylim(bottom=0)
    panels[2].set_ylabel("loads for an expert that is needed")
    letter_panels(panels, _TITLES)
    legend_below(figure, panels, ncols=5)
    return Drawing(figure, _caption(curves, real, batch, sources))


def curves_of(sources: Sources, batch: int) -> dict[str, Curve]:
    """All that was replayed of decoding, with a warm cache that the layers share."""
    rows = sources.query(
        """
        SELECT DISTINCT policy, capacity_share, hit_rate, hit_rate_low, hit_rate_high, loads_an_access, recall
        FROM cache_simulations
        WHERE run = $run AND phase = $phase AND batch = $batch AND start = 'warm' AND sharing = 'shared'
        ORDER BY policy, capacity_share
        """,
        phase=DECODE,
        batch=batch,
    ).to_pylist()
    names = ("capacity_share", "hit_rate", "hit_rate_low", "hit_rate_high", "loads_an_access", "recall")
    own: dict[str, list[list[float]]] = {}
    for row in rows:
        own.setdefault(row["policy"], []).append([np.nan if row[name] is None else row[name] for name in names])
    return {policy: Curve(*np.array(values, np.float64).T) for policy, values in own.items()}


def real_run(sources: Sources) -> list[Real]:
    """What the model's decoding came to with offloaded experts; nothing where it was not run so."""
    rows = sources.query(
        """
        SELECT arm, capacity, hit_rate, (demand_loads + prefetch_loads) / accesses AS loads, predicted_hit_rate, tokens
        FROM offloaded WHERE run = $run AND phase = $phase AND capacity IS NOT NULL ORDER BY arm, capacity
        """,
        phase=DECODE,
    ).to_pylist()
    return [
        Real(
            row["arm"], row["capacity"] / experts_of(sources), row["hit_rate"], row["loads"],
            np.nan if row["predicted_hit_rate"] is None else row["predicted_hit_rate"], row["tokens"],
        )
        for row in rows
    ]  # fmt: skip


def _draw_curves(panel: Axes, curves: Mapping[str, Curve], looks: Mapping[str, Look], measure: str) -> None:
    for name, look in looks.items():
        if name not in curves:
            continue
        curve = curves[name]
        if measure == "hits":
            panel.fill_between(curve.share, curve.low, curve.high, color=look.colour, alpha=0.2, linewidth=0)
        panel.plot(
            curve.share, getattr(curve, measure), color=look.colour, linestyle=look.style, marker=look.marker,
            markersize=3.0, markevery=max(len(curve.share) // _MARKERS, 1), linewidth=1.8 if name == BELADY else 1.1,
            label=look.label, zorder=2.5,
        )  # fmt: skip


def _beyond_belady(panels: Sequence[Axes], curves: Mapping[str, Curve]) -> None:
    """Shade what no rule can do: more hits on demand, and fewer loads."""
    if BELADY not in curves:
        return
    best = curves[BELADY]
    panels[0].fill_between(best.share, best.hits, 1.02, color=LIGHT_GREY, linewidth=0, label="beyond the optimum")
    if panels[2].axison:
        panels[2].fill_between(best.share, 0, best.loads, color=LIGHT_GREY, linewidth=0)


def _draw_real(panels: Sequence[Axes], real: Sequence[Real]) -> None:
    """Mark what was measured, and across it what a replay of the very text says."""
    for each in real:
        look = (DEMANDED | PREDICTIONS)[each.arm]
        places = [(panels[0], each.hits)] if each.arm in DEMANDED else [(panels[1], each.hits)]
        places.append((panels[2], each.loads))
        for panel, value in places:
            if panel.axison:
                panel.plot(
                    [each.share], [value], marker="D", markersize=5.0, color=look.colour, markeredgecolor=BLACK,
                    markeredgewidth=0.7, linestyle="none", zorder=4,
                )  # fmt: skip
        if places[0][0].axison:
            places[0][0].plot(
                [each.share], [each.replayed], marker="_", markersize=10.0, markeredgewidth=1.0, color=BLACK,
                linestyle="none", zorder=5,
            )  # fmt: skip
    if real:
        panels[0].plot([], [], marker="D", markersize=5.0, color="white", markeredgecolor=BLACK, linestyle="none",
                       label="model really run")  # fmt: skip
        panels[0].plot([], [], marker="_", markersize=10.0, color=BLACK, linestyle="none", label="its text replayed")


def _nothing_decoded() -> Drawing:
    figure = new_figure(COLUMN, 1.2)
    empty_panel(figure.subplots(), "nothing was replayed as decoded")
    return Drawing(figure, "What does a cache of experts find? Nothing was replayed as decoded, so it is not drawn.")


def _caption(curves: Mapping[str, Curve], real: Sequence[Real], batch: int, sources: Sources) -> str:
    return (
        f"What does a cache of experts find, and what does prediction add? The recorded routing, replayed as decoding "
        f"of {decoding(batch)} with a warm cache that all layers share, by the share of all experts that it holds. (a) "
        "How many of the experts that are needed are there, if experts are loaded when they are needed and not before: "
        "Belady's optimum knows what comes, and no rule finds more (grey). (b) The same with an LRU cache into which "
        "predicted experts are fetched beforehand; what is on its way counts as found. (c) What that moves: loads, in "
        "time or ahead of it, for an expert that is needed. Prediction moves hits, not bytes: nothing moves less than "
        f"Belady's optimum (grey), and what was fetched wrongly moves more. {_told(curves, told_share(sources, batch))}"
        f"{_intervals(curves, sources)}{_really(real)}"
    )


def _told(curves: Mapping[str, Curve], share: float) -> str:
    """Say what is found and moved at one size."""
    there = [name for name in (LRU, BELADY) if name in curves]
    said = [f"{DEMANDED[name].label} finds {_found(curves[name].at(share))}" for name in there]
    text = f"With {percent(share)} of the experts in memory {' and '.join(said)}. " if said else ""
    usable = {name: curves[name].at(share) for name in USABLE if name in curves}
    if not usable:
        return f"{text}No prediction was replayed. "
    best = max(usable, key=lambda name: usable[name]["hits"])
    own = usable[best]
    beside = [f"{number(curves[name].at(share)['loads'])} by {DEMANDED[name].label}" for name in there]
    against = f", against {' and '.join(beside)}" if beside else ""
    size = "" if said else f" with {percent(share)} of the experts in memory"
    return (
        f"{text}The best of the predictions that could be used, by {PREDICTIONS[best].label} with a recall of "
        f"{short_percent(own['recall'])}, finds {_found(own)}{size}, and moves {number(own['loads'])} experts for one "
        f"that is needed{against}. "
    )


def _found(at: Mapping[str, float]) -> str:
    interval = "" if np.isnan(at["low"]) else f" [{short_percent(at['low'])}, {short_percent(at['high'])}]"
    return f"{short_percent(at['hits'])}{interval}"


def _intervals(curves: Mapping[str, Curve], sources: Sources) -> str:
    if all(np.isnan(curve.low).all() for curve in curves.values()):
        return "There are too few groups of documents for intervals."
    confidence = CachesConfig.model_validate(sources.systems).confidence
    return f"Bands are intervals of {100 * confidence:g} % by a bootstrap over groups of documents."


def _really(real: Sequence[Real]) -> str:
    if not real:
        return " No model was run with offloaded experts, so nothing says that the replay is right."
    labels = {name: look.label for name, look in (DEMANDED | PREDICTIONS).items()}
    said = [f"{labels[each.arm]} {short_percent(each.hits)} (replayed {short_percent(each.replayed)})" for each in real]
    apart = max(abs(each.hits - each.replayed) for each in real)
    return (
        f" Diamonds: the model really run with {percent(real[0].share)} of its experts in memory over "
        f"{real[0].tokens} tokens, from an empty cache, so beside the lines; bars across them are what a replay of "
        f"that very text says. It found: {', '.join(said)}; at most {number(100 * apart, 1)} points apart."
    )
