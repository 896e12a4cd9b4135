"""How well tables decide for rare and for frequent tokens."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes
from numpy.typing import NDArray

from var_core.evaluation import names
from var_core.figures.policies import ARM_COLOURS, confidence
from var_core.figures.sources import Drawing, Sources, number
from var_core.figures.style import LIGHT_GREY, PAGE, legend_below, letter_panels, new_figure, sequence_colours

Floats = NDArray[np.float64]

NEEDS = ("policy",)
"""What must have been recorded of the run."""

_LABELS = {names.POLICY: "policy's tables", names.TOKEN_TABLE: "table by token id"}
_UNSEEN = 0.35
"""Where tokens that never occurred stand on the axis of logarithms."""


@dataclass(frozen=True)
class ByFrequency:
    """Agreement of one arm by how often a token occurred, at one layer or over all.

    Attributes
    ----------
    from_count : int array, shape (M,)
        First number of occurrences of each range.
    to_count : float array, shape (M,)
        Last one; NaN where the range has no end.
    decisions : int array, shape (M,)
    agreement, low, high : float array, shape (M,)
    """

    from_count: NDArray[np.int64]
    to_count: Floats
    decisions: NDArray[np.int64]
    agreement: Floats
    low: Floats
    high: Floats

    @property
    def place(self) -> Floats:
        """Middle of each range on an axis of logarithms, half a decade from the start of one without an end."""
        end = np.where(np.isnan(self.to_count), self.from_count * 10.0**0.5 - 1, self.to_count)
        return np.where(self.from_count > 0, np.sqrt(np.maximum(self.from_count, 1) * (end + 1)), _UNSEEN)

    @property
    def share(self) -> Floats:
        """Share of the decisions that each range has."""
        return self.decisions / self.decisions.sum()


def draw(sources: Sources) -> Drawing:
    """Draw agreement against occurrences, over all layers and at each."""
    pooled = {arm: found for arm in _LABELS if (found := measure(sources, arm)) is not None}
    figure = new_figure(PAGE, 2.8)
    left, right = figure.subplots(1, 2, sharey=True)
    _draw_pooled(left, pooled)
    _draw_layers(right, sources, pooled)
    letter_panels([left, right], ["all layers", "single layers, policy's tables"])
    legend_below(figure, [left, right], ncols=4)
    return Drawing(figure, _caption(pooled, sources))


def measure(sources: Sources, arm: str, layer: int | None = None) -> ByFrequency | None:
    """Agreement of an arm by the token's occurrences in the capture split; None if it was not measured."""
    table = sources.query(
        """
        SELECT from_count, to_count, decisions, set_agreement, low, high FROM policy_frequencies
        WHERE run = $run AND arm = $arm AND layer IS NOT DISTINCT FROM $layer ORDER BY from_count
        """,
        arm=arm,
        layer=layer,
    )
    if not len(table):
        return None
    return ByFrequency(
        table["from_count"].to_numpy(), _floats(table, "to_count"), table["decisions"].to_numpy(),
        *(_floats(table, name) for name in ("set_agreement", "low", "high")),
    )  # fmt: skip


def _floats(table: pa.Table, name: str) -> Floats:
    return np.array(table[name].to_pylist(), dtype=np.float64)


def _draw_pooled(panel: Axes, pooled: dict[str, ByFrequency]) -> None:
    for arm, found in pooled.items():
        colour = ARM_COLOURS[arm]
        panel.vlines(found.place, found.low, found.high, color=colour, linewidth=1.0)
        panel.plot(found.place, found.agreement, color=colour, marker="o", label=_LABELS[arm])
    first = next(iter(pooled.values()))
    panel.bar(
        first.place, first.share, width=first.place * 0.7, color=LIGHT_GREY, linewidth=0, zorder=0,
        label="share of decisions",
    )  # fmt: skip
    _axes(panel, first)
    panel.set_ylabel("held-out set agreement")


def _draw_layers(panel: Axes, sources: Sources, pooled: dict[str, ByFrequency]) -> None:
    for layer, colour in zip(sources.layers, sequence_colours(len(sources.layers)), strict=True):
        found = measure(sources, names.POLICY, layer.layer)
        if found is not None:
            panel.plot(found.place, found.agreement, color=colour, linewidth=0.8, alpha=0.8)
    if names.POLICY in pooled:
        found = pooled[names.POLICY]
        panel.plot(found.place, found.agreement, color=ARM_COLOURS[names.POLICY], linewidth=1.8)
    _axes(panel, next(iter(pooled.values())))


def _axes(panel: Axes, found: ByFrequency) -> None:
    panel.set_xscale("log")
    decades = range(int(np.log10(max(found.from_count[-1], 1))) + 1)
    ticks = [10.0**decade for decade in decades]
    unseen = [_UNSEEN] if found.from_count[0] == 0 else []
    panel.set_xticks([*unseen, *ticks], [*("0" for _ in unseen), *(f"{tick:,.0f}".replace(",", " ") for tick in ticks)])
    panel.minorticks_off()
    panel.set_xlim(0.22, found.place[-1] * 2)
    panel.set_ylim(0, 1.02)
    panel.set_xlabel("occurrences of the token in the capture split")


def _caption(pooled: dict[str, ByFrequency], sources: Sources) -> str:
    return (
        "Do tables know rare tokens, too? Held-out decisions by how often their token occurred in the capture split, "
        "which the tables were fitted to, in ranges of half a decade (0: never): how often the row of the table that "
        "a decision belongs to, however sure it is of itself, has the very set of experts that the router chose. "
        f"{_told(pooled)}Bars are the share of decisions. Intervals of {confidence(sources)} are by "
        "a bootstrap over groups of documents. (b) The same for the policy's tables at each layer, dark to light from "
        "the first to the last; the thick line is the one of (a)."
    )


def _told(pooled: dict[str, ByFrequency]) -> str:
    said: Sequence[str] = [
        f"{_LABELS[arm].capitalize()}: {number(found.agreement[0])} {_range(found, 0)}, "
        f"{number(found.agreement[-1])} {_range(found, -1)}. "
        for arm, found in pooled.items()
    ]
    return "".join(said)


def _range(found: ByFrequency, place: int) -> str:
    first, last = int(found.from_count[place]), found.to_count[place]
    if first == 0:
        return "for tokens that never occurred"
    return f"from {first} occurrences on" if np.isnan(last) or place else f"for up to {last:.0f} occurrences"
