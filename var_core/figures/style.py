"""The one style of all figures: sizes, colours, and what panels have in common.

Figures are drawn for print: at the size given, no text is smaller than 7 points. Categories have the colours of Okabe
and Ito (2008), which people with any common colour vision can tell apart; ordered values have cividis or viridis.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colorbar import Colorbar
from matplotlib.figure import Figure, FigureBase
from numpy.typing import NDArray

Colour = str | tuple[float, float, float, float]
LineStyle = str | tuple[float, tuple[float, ...]]

COLUMN = 3.35
"""width of a figure in one column, inches"""
PAGE = 6.9
"""width of a figure over two columns, inches"""

BLACK, GREY, LIGHT_GREY = "#000000", "#767676", "#D9D9D9"
BLUE, SKY, GREEN, ORANGE = "#0072B2", "#56B4E9", "#009E73", "#E69F00"
VERMILLION, PURPLE = "#D55E00", "#CC79A7"

CATEGORIES = (BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILLION)
"""Colours of categories without a meaning of their own, such as domains."""

OBSERVED, HELDOUT, NULL, CHANCE, CRITERION = BLUE, GREEN, GREY, BLACK, VERMILLION
"""What a colour means wherever it stands: counted, on unseen text, nothing to find, blind guess, what a claim asks."""

SEQUENTIAL, DIVERGING = "cividis", "RdBu_r"
PAYING = "RdBu"
"""Of ratios where more is better: blue gains, red loses."""

TEXT, SMALL = 8.0, 7.0
"""Sizes of labels and of the smallest text, points."""

_SETTINGS = {
    "font.family": "DejaVu Sans",
    "font.size": SMALL,
    "axes.titlesize": TEXT,
    "axes.labelsize": TEXT,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "legend.fontsize": SMALL,
    "figure.titlesize": TEXT,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
    "xtick.major.size": 3.0,
    "ytick.major.size": 3.0,
    "xtick.minor.size": 1.8,
    "ytick.minor.size": 1.8,
    "xtick.major.pad": 2.0,
    "ytick.major.pad": 2.0,
    "axes.labelpad": 2.5,
    "axes.titlepad": 4.0,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.5,
    "legend.frameon": False,
    "legend.handlelength": 1.8,
    "legend.columnspacing": 1.4,
    "legend.borderaxespad": 0.2,
    "image.interpolation": "nearest",
    "figure.constrained_layout.w_pad": 0.04,
    "figure.constrained_layout.h_pad": 0.04,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "text.parse_math": False,
    # The same figure gives the same bytes.
    "svg.hashsalt": "var",
    "pdf.fonttype": 42,
}


@contextmanager
def styled() -> Iterator[None]:
    """Let figures that are made, and saved, inside the block have the style; nothing outside changes."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)
        yield


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of the given size in inches, whose parts make room for each other."""
    return Figure(figsize=(width, height), layout="constrained")


def letter_panels(panels: Sequence[Axes], titles: Sequence[str]) -> None:
    """Put a bold letter and a title over each panel, at its left edge."""
    for letter, panel, title in zip("abcdefghijklmnop", panels, titles, strict=False):
        panel.set_title(f"  {title}", loc="left", x=0.0)
        panel.annotate(
            letter,
            (0, 1),
            (-1, 4),
            xycoords="axes fraction",
            textcoords="offset points",
            size=TEXT,
            weight="bold",
            ha="right",
            va="bottom",
        )


def sequence_colours(count: int) -> list[Colour]:
    """Colours of an ordered sequence such as layers, dark to light, none too pale for white paper."""
    colours = matplotlib.colormaps["viridis"](np.linspace(0.0, 0.85, max(count, 1)))
    return [tuple(colour) for colour in colours]


def level(
    panel: Axes, value: float, colour: str = CRITERION, style: LineStyle = "--", label: str | None = None
) -> None:
    """Draw a horizontal line at a value that others are compared with."""
    panel.axhline(value, color=colour, linestyle=style, linewidth=0.9, zorder=1.5, label=label)


def upright(panel: Axes, value: float, colour: str = CRITERION, style: LineStyle = "--") -> None:
    """Draw a vertical line at a value that others are compared with."""
    panel.axvline(value, color=colour, linestyle=style, linewidth=0.9, zorder=1.5)


def label_right(panel: Axes, values: Sequence[float], texts: Sequence[str], colours: Sequence[str]) -> None:
    """Name horizontal levels to the right of a panel, moved apart where they would overlap.

    The limits of the panel's y axis must be final, for overlaps are found in points of the printed figure.
    """
    height = panel.get_window_extent().height * 72 / panel.figure.dpi
    low, high = panel.get_ylim()
    spots = moved_apart([(value - low) / (high - low) * height for value in values], distance=SMALL * 1.25)
    for spot, text, colour in zip(spots, texts, colours, strict=True):
        panel.annotate(
            text, (1, spot / height), (3, 0), "axes fraction", "offset points", color=colour, va="center",
            annotation_clip=False,
        )  # fmt: skip


def moved_apart(places: Sequence[float], distance: float) -> NDArray[np.float64]:
    """Move places as little as possible until neighbours are `distance` apart; their order stays.

    Least squares with minimum distances is a monotone regression once the distances are taken off: pool neighbours
    that are out of order into blocks with one mean.
    """
    order = np.argsort(places, kind="stable")
    steps = distance * np.arange(len(order))
    blocks: list[tuple[float, int]] = []
    for value in np.asarray(places, dtype=np.float64)[order] - steps:
        mean, size = float(value), 1
        while blocks and blocks[-1][0] > mean:
            other, count = blocks.pop()
            mean, size = (mean * size + other * count) / (size + count), size + count
        blocks.append((mean, size))
    moved = np.empty(len(order))
    moved[order] = np.repeat([mean for mean, _ in blocks], [size for _, size in blocks]) + steps
    return moved


def legend_below(figure: FigureBase, panels: Sequence[Axes], ncols: int | None = None) -> None:
    """Put one legend for all panels under them, each entry once, where it can cover nothing; in one row by default."""
    entries: dict[str, Artist] = {}
    for panel in panels:
        handles, labels = panel.get_legend_handles_labels()
        for text, handle in zip(labels, handles, strict=True):
            entries.setdefault(text, handle)
    figure.legend(list(entries.values()), list(entries), loc="outside lower center", ncols=ncols or len(entries))


def empty_panel(panel: Axes, why: str) -> None:
    """Say in a panel why there is nothing to draw."""
    panel.set_axis_off()
    panel.text(0.5, 0.5, why, ha="center", va="center", transform=panel.transAxes, wrap=True)


_RATIOS = (
    (2.0, (1 / 64, 1 / 16, 1 / 4, 1, 4, 16)),
    (1.0, (1 / 4, 1 / 2, 1, 2, 4)),
    (0.4, (0.4, 0.5, 0.7, 1, 1.4, 2)),
    (0.0, (0.7, 0.8, 0.9, 1, 1.1, 1.2, 1.4)),
)
"""Ratios to mark on a scale of logarithms to base 2, by half the width of the scale."""


def ratio_bar(bar: Colorbar, title: str) -> None:
    """Label a colour bar over logarithms to base 2 with the ratios themselves."""
    low, high = bar.mappable.get_clim()
    ratios = next(ratios for width, ratios in _RATIOS if (high - low) / 2 >= width)
    inside = [ratio for ratio in ratios if low <= np.log2(ratio) <= high]
    bar.set_ticks(
        list(np.log2(inside)), labels=[f"{ratio:.2g}" if ratio >= 0.1 else f"1/{1 / ratio:.0f}" for ratio in inside]
    )
    bar.ax.minorticks_off()
    bar.set_label(title)
