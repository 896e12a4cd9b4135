"""What the figures of a search share: its trials and measured points, and how studies and points look."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from var_core.config.tuning import TuningConfig
from var_core.figures.sources import Sources
from var_core.figures.style import BLACK, BLUE, GREEN, ORANGE, PURPLE
from var_core.tuning.trials import CLASSIC, CONFIGURED, CONTROL, SEARCH

Floats = NDArray[np.float64]

STUDIES = (CONTROL, SEARCH)
"""In the order in which they are drawn: the search lies on top."""
STUDY_COLOURS = {SEARCH: BLUE, CONTROL: ORANGE}
STUDY_MARKERS = {SEARCH: "o", CONTROL: "x"}

ON_FRONT = "front"
POINT_COLOURS = {ON_FRONT: BLUE, CLASSIC: PURPLE, CONFIGURED: GREEN}
POINT_MARKERS = {ON_FRONT: "o", CLASSIC: "s", CONFIGURED: "^"}
POINT_LABELS = {
    ON_FRONT: "front, measured",
    CLASSIC: "classic predicate, measured",
    CONFIGURED: "as configured, measured",
}

SAMPLERS = {"tpe": "multivariate TPE", "nsga2": "NSGA-II", "random": "random draws"}


@dataclass(frozen=True)
class Study:
    """The complete trials of a study, in order of number.

    Attributes
    ----------
    number : int array, shape (T,)
    learned_share, loss_difference : float array, shape (T,)
        Replayed, and modelled in nats a token.
    on_front : bool array, shape (T,)
    """

    number: NDArray[np.int64]
    learned_share: Floats
    loss_difference: Floats
    on_front: NDArray[np.bool_]

    @cached_property
    def front(self) -> tuple[Floats, Floats]:
        """Learned share and loss difference of the trials on the front, fewest learned decisions first."""
        order = np.lexsort([self.loss_difference, self.learned_share])
        order = order[self.on_front[order]]
        return self.learned_share[order], self.loss_difference[order]


@dataclass(frozen=True)
class Measured:
    """A measure of a point: what was estimated, and what came of it; NaN where there is none."""

    estimated: float
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Point:
    """A point that the model was run with; ``kind``: front, classic or configured."""

    name: str
    chosen: bool
    learned_share: Measured
    loss_difference: Measured

    @property
    def kind(self) -> str:
        """How it looks, and what it is called."""
        return self.name if self.name in POINT_LABELS else ON_FRONT


def settings_of(sources: Sources) -> TuningConfig:
    """The settings of the search: constraints, sampler, confidence."""
    return TuningConfig.model_validate(sources.tuning)


def intervals(sources: Sources) -> str:
    """Say what the bars of measured points are, in a sentence."""
    confidence = settings_of(sources).confidence
    if confidence is None:
        return "No intervals were asked for."
    return f"Bars are intervals of {100 * confidence:g} % by a bootstrap over groups of documents."


def study_of(sources: Sources, study: str) -> Study:
    """The complete trials of a study."""
    rows = sources.query(
        """
        SELECT number, learned_share, loss_difference, on_front FROM tuning_trials
        WHERE run = $run AND study = $study AND state = 'complete' ORDER BY number
        """,
        study=study,
    )
    return Study(*(rows[name].to_numpy() for name in ("number", "learned_share", "loss_difference", "on_front")))


def points_of(sources: Sources) -> list[Point]:
    """Points that the model was run with, by estimated learned share."""
    rows = sources.query(
        """
        SELECT point, chosen, measure, estimated, measured, low, high FROM tuning_front
        WHERE run = $run AND measure IN ('learned_share', 'loss_difference')
        """
    ).to_pylist()
    found = {
        (row["point"], row["measure"]): Measured(
            *(np.nan if row[name] is None else row[name] for name in ("estimated", "measured", "low", "high"))
        )
        for row in rows
    }
    chosen = {row["point"]: bool(row["chosen"]) for row in rows}
    points = [
        Point(name, chosen[name], found[name, "learned_share"], found[name, "loss_difference"]) for name in chosen
    ]
    return sorted(points, key=lambda point: (point.learned_share.estimated, point.name))


def plain_loss(sources: Sources) -> float | None:
    """Loss of the plain model that relative losses are shares of, in nats a token; None where no trial tells it."""
    rows = sources.query(
        """
        SELECT loss_difference / relative_loss AS loss FROM tuning_trials
        WHERE run = $run AND state = 'complete' AND relative_loss <> 0
        ORDER BY abs(relative_loss) DESC LIMIT 1
        """
    )
    return next(iter(rows["loss"].to_pylist()), None)


def mark_points(panel: Axes, kind: str, x: Sequence[float], y: Sequence[float]) -> None:
    """Draw the points of a kind: filled on the front, open and larger beside it, for one may be on the other."""
    look: dict[str, Any] = {"markersize": 7.0, "markerfacecolor": "none", "markeredgewidth": 1.2}
    if kind == ON_FRONT:
        look = {"markersize": 4.5, "markeredgecolor": BLACK, "markeredgewidth": 0.6}
    panel.plot(
        x, y, linestyle="none", marker=POINT_MARKERS[kind], color=POINT_COLOURS[kind], label=POINT_LABELS[kind],
        zorder=4, **look,
    )  # fmt: skip


def ring_chosen(panel: Axes, x: Sequence[float], y: Sequence[float]) -> None:
    """Mark the chosen point with a ring around it, whatever it looks like."""
    panel.plot(
        x, y, linestyle="none", marker="o", markersize=10.0, markerfacecolor="none", markeredgecolor=BLACK,
        markeredgewidth=1.1, label="chosen", zorder=5,
    )  # fmt: skip
