"""Policies made on the text of one domain, on the text of others."""

from collections.abc import Callable
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from numpy.typing import NDArray

from var_core.figures.policies import confidence, nothing_to_draw
from var_core.figures.sources import Drawing, Sources, number
from var_core.figures.style import (
    BLACK,
    DIVERGING,
    PAGE,
    SEQUENTIAL,
    letter_panels,
    new_figure,
)

Floats = NDArray[np.float64]

NEEDS = ("policy",)
"""What must have been recorded of the run."""

_SIDE_BY_SIDE = 4
"""With more domains than this the panels stand one under the other."""
_MOST_INTERVALS, _MOST_NUMBERS = 6, 12
"""With more domains than this cells hold no intervals, and no numbers at all."""
_CHARACTER = 0.06
"""Width of a character of a label, with room to its neighbour, inches."""
_TITLES = {"set_agreement": "set agreement", "coverage": "coverage", "loss_difference": "loss difference (nats)"}


@dataclass(frozen=True)
class Matrix:
    """One measure of every policy on every text.

    Attributes
    ----------
    measure : str
    made_on, evaluated_on : tuple of str
        Domains of the rows, with all text at the end, and of the columns.
    value, low, high : float array, shape (rows, columns)
        NaN where nothing was replaced, or there is no interval.
    """

    measure: str
    made_on: tuple[str, ...]
    evaluated_on: tuple[str, ...]
    value: Floats
    low: Floats
    high: Floats


def draw(sources: Sources) -> Drawing:
    """Draw agreement, coverage and loss difference of each policy on each text."""
    matrices = measure_matrices(sources)
    if not matrices:
        return nothing_to_draw(
            "transfer between domains",
            "the corpus has one domain, so there is none to transfer to",
            "Does a policy made on one kind of text hold on another? The corpus of this run has one domain, so there "
            "is none to transfer to.",
        )
    domains = len(matrices[0].evaluated_on)
    stacked = domains > _SIDE_BY_SIDE
    figure = _sheet(domains, stacked)
    grid = figure.subplots(3, 1, sharex=True) if stacked else figure.subplots(1, 3, sharey=True)
    panels = list(grid.flat)
    for panel, matrix in zip(panels, matrices, strict=True):
        _draw_matrix(panel, matrix)
    for panel in panels if stacked else panels[:1]:
        panel.set_ylabel("made on")
    for panel in panels[-1:] if stacked else panels:
        panel.set_xlabel("evaluated on")
    letter_panels(panels, [_TITLES[matrix.measure] for matrix in matrices])
    return Drawing(figure, _caption(matrices, sources))


def measure_matrices(sources: Sources) -> list[Matrix]:
    """The measures that are drawn; none for a corpus of one domain."""
    rows = sources.query("SELECT * FROM transfer WHERE run = $run").to_pylist()
    evaluated_on = tuple(sorted({row["evaluated_on"] for row in rows}))
    # After the domains what is no domain: all text.
    made_on = (*evaluated_on, *sorted({row["made_on"] for row in rows} - set(evaluated_on)))
    matrices = []
    for measure in _TITLES if rows else ():
        cells = np.full((3, len(made_on), len(evaluated_on)), np.nan)
        for row in rows:
            if row["measure"] == measure:
                place = made_on.index(row["made_on"]), evaluated_on.index(row["evaluated_on"])
                cells[:, *place] = [np.nan if row[end] is None else row[end] for end in ("value", "low", "high")]
        matrices.append(Matrix(measure, made_on, evaluated_on, *cells))
    return matrices


def _sheet(domains: int, stacked: bool) -> Figure:
    if stacked:
        return new_figure(PAGE, min(1.6 + 3 * 0.17 * (domains + 1), 8.6))
    return new_figure(PAGE, 1.35 + 0.36 * (domains + 1))


def _draw_matrix(panel: Axes, matrix: Matrix) -> None:
    colours, scaled = _scale(matrix)
    panel.imshow(scaled, cmap=colours, vmin=0, vmax=1, aspect="auto")
    panel.spines[:].set_visible(False)
    panel.tick_params(length=0)
    panel.set_xticks(range(len(matrix.evaluated_on)), [_short(name) for name in matrix.evaluated_on])
    width = (5.8 if len(matrix.evaluated_on) > _SIDE_BY_SIDE else 1.85) / len(matrix.evaluated_on)
    if width < _CHARACTER * max(len(_short(name)) for name in matrix.evaluated_on):
        panel.tick_params(axis="x", rotation=90)
    panel.set_yticks(range(len(matrix.made_on)), [_short(name) for name in matrix.made_on])
    # A white line sets the policy of all text apart.
    panel.axhline(len(matrix.evaluated_on) - 0.5, color="white", linewidth=2.0)
    if len(matrix.evaluated_on) <= _MOST_NUMBERS:
        _write_numbers(panel, matrix, colours, scaled)


def _scale(matrix: Matrix) -> tuple[Colormap, Floats]:
    """Shares from 0 to 1; differences on both sides of 0, which is white, as far as the largest one."""
    if matrix.measure != "loss_difference":
        return matplotlib.colormaps[SEQUENTIAL], matrix.value
    largest = max(float(np.nanmax(np.abs(matrix.value), initial=0.0)), 1e-9)
    return matplotlib.colormaps[DIVERGING], 0.5 + matrix.value / largest / 2


def _write_numbers(panel: Axes, matrix: Matrix, colours: Colormap, scaled: Floats) -> None:
    roomy = len(matrix.evaluated_on) <= _SIDE_BY_SIDE
    write = _writer(matrix)
    for row, column in np.ndindex(matrix.value.shape):
        value, low, high = (float(part[row, column]) for part in (matrix.value, matrix.low, matrix.high))
        if np.isnan(value):
            panel.text(column, row, "–", ha="center", va="center")
            continue
        text = write(value)
        if not np.isnan(low) and len(matrix.evaluated_on) <= _MOST_INTERVALS:
            between = f"± {write((high - low) / 2).lstrip('+')}"
            text = f"{text}\n{between}" if roomy else f"{text} {between}"
        panel.text(
            column,
            row,
            text,
            ha="center",
            va="center",
            linespacing=1.05,
            color=_ink(colours(float(scaled[row, column]))),
        )


def _writer(matrix: Matrix) -> Callable[[float], str]:
    sign = matrix.measure == "loss_difference"
    digits = 3 if sign else 2
    return lambda value: number(value, digits, sign)


def _ink(background: tuple[float, float, float, float]) -> str:
    """Black on light, white on dark, by relative luminance."""
    red, green, blue, _ = background
    return BLACK if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.45 else "white"


def _short(name: str, length: int = 16) -> str:
    return name if len(name) <= length else f"{name[: length - 1]}…"


def _caption(matrices: list[Matrix], sources: Sources) -> str:
    by_measure = {matrix.measure: matrix for matrix in matrices}
    intervals = (
        f"Intervals, as half their width after ±, are of {confidence(sources)} by a bootstrap over "
        "groups of documents, and left out where these are too few. "
    )
    return (
        "Does a policy made on one kind of text hold on another? A row is the domain that tables were fitted and "
        "calibrated on (last, all text), a column the unseen text that the model was run on with them. (a) How often a "
        "decision that is not the router's is the very set of experts that the router would have chosen: "
        f"{_at_home(by_measure['set_agreement'], 2)} (b) The share of decisions that are not the router's: "
        f"{_at_home(by_measure['coverage'], 2)} (c) Loss over the plain model's on the same text, in nats a token: "
        f"{_at_home(by_measure['loss_difference'], 3)} {intervals if _known(matrices) else ''}"
        "– stands where nothing was replaced."
    )


def _at_home(matrix: Matrix, digits: int) -> str:
    """Say what comes of a policy on its own domain, and on others, as means over cells."""
    domains = len(matrix.evaluated_on)
    home = np.eye(len(matrix.made_on), domains, dtype=bool)
    away = ~home
    away[domains:] = False
    means = {
        where: float(np.nanmean(matrix.value[cells])) if np.isfinite(matrix.value[cells]).any() else None
        for where, cells in (("own", home), ("other", away))
    }
    sign = matrix.measure == "loss_difference"
    if means["own"] is None or means["other"] is None:
        return "not known both at home and elsewhere."
    return (
        f"{number(means['own'], digits, sign)} on the domain's own text and {number(means['other'], digits, sign)} on "
        "that of others, as means over cells."
    )


def _known(matrices: list[Matrix]) -> bool:
    """Whether intervals are written in the cells."""
    few = len(matrices[0].evaluated_on) <= _MOST_INTERVALS
    return few and any(np.isfinite(matrix.low).any() for matrix in matrices)
