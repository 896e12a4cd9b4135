"""Values against the layer: points with intervals for a few layers, lines with bands for many."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from var_core.figures.sources import WithInterval
from var_core.hypotheses.data import Layer
from var_core.hypotheses.results import Result

FEW = 12
"""Up to so many layers are shown as single points."""


def layer_axis(panel: Axes, layers: Sequence[Layer]) -> None:
    """Let the x axis of a panel count the MoE layers."""
    panel.set_xlim(layers[0].layer - 0.5, layers[-1].layer + 0.5)
    panel.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    panel.set_xlabel("MoE layer")


def series(
    panel: Axes,
    layers: Sequence[Layer],
    values: NDArray[np.float64],
    low: NDArray[np.float64] | None = None,
    high: NDArray[np.float64] | None = None,
    *,
    colour: str,
    label: str,
    marker: str = "o",
    shift: float = 0.0,
    filled: bool = True,
) -> None:
    """Draw one series over layers with its intervals.

    Parameters
    ----------
    panel : Axes
    layers : sequence of Layer
    values, low, high : float array, shape (L,)
        NaN where there is no value or no interval.
    colour, label, marker : str
    shift : float, optional
        How far points stand beside their layer, so that several series do not hide each other; lines are not shifted.
    filled : bool, optional
        Whether markers are filled.
    """
    place = np.array([layer.layer for layer in layers], dtype=np.float64)
    if len(layers) > FEW:
        panel.plot(place, values, color=colour, label=label, linestyle="-" if filled else (0, (2, 1.5)))
        if low is not None and high is not None:
            panel.fill_between(place, low, high, color=colour, alpha=0.25, linewidth=0)
        return
    place = place + shift
    face = colour if filled else "white"
    if low is not None and high is not None:
        panel.vlines(place, low, high, color=colour, linewidth=1.0)
    panel.plot(place, values, color=colour, label=label, marker=marker, linestyle="", markerfacecolor=face, zorder=3)


def columns(rows: Sequence[WithInterval]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Statistic and ends of the interval of each row; NaN where there is none."""
    return (
        np.array([row.statistic for row in rows], dtype=np.float64),
        np.array([row.low for row in rows], dtype=np.float64),
        np.array([row.high for row in rows], dtype=np.float64),
    )


def null_columns(rows: Sequence[Result]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Mean of the null of each row, and two standard deviations below and above it; NaN where there is none."""
    mean = np.array([row.null_mean for row in rows], dtype=np.float64)
    spread = 2 * np.array([row.null_sd for row in rows], dtype=np.float64)
    return mean, mean - spread, mean + spread
