"""What the search found: learned decisions against loss, modelled of every trial and measured of the front's points."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from var_core.figures.sources import Drawing, Sources, number, percent
from var_core.figures.style import CRITERION, GREY, PAGE, legend_below, letter_panels, level, new_figure, upright
from var_core.figures.tunings import (
    POINT_COLOURS,
    POINT_LABELS,
    SAMPLERS,
    STUDIES,
    STUDY_COLOURS,
    STUDY_MARKERS,
    Point,
    Study,
    intervals,
    mark_points,
    plain_loss,
    points_of,
    ring_chosen,
    settings_of,
    study_of,
)
from var_core.tuning.trials import CONTROL, SEARCH

NEEDS = ("tuning",)
"""What must have been recorded of the run."""

_MANY = 150
"""More trials than this are drawn smaller and paler."""
_TRIALS = {SEARCH: "trial of the search", CONTROL: "random trial"}
_FRONTS = {SEARCH: "front of the search", CONTROL: "front at random"}
_WIDTHS = {SEARCH: 1.2, CONTROL: 0.9}


def draw(sources: Sources) -> Drawing:
    """Draw all trials, and beside them what the model came to at points of the front."""
    studies = {name: study_of(sources, name) for name in STUDIES}
    points, limits = points_of(sources), constraints(sources)
    figure = new_figure(PAGE, 3.4)
    panels = list(figure.subplots(1, 2))
    for name, study in studies.items():
        _draw_trials(panels[0], name, study)
    for name, study in studies.items():
        _draw_front(panels[0], name, study)
    _draw_front(panels[1], SEARCH, studies[SEARCH])
    _draw_points(panels[1], points)
    for panel in panels:
        _draw_constraints(panel, limits)
        panel.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        panel.xaxis.set_major_locator(MaxNLocator(6))
        panel.set_xlabel("learned share of decisions")
        panel.set_ylabel("loss difference (nats a token)")
    letter_panels(panels, ["all trials, replayed", "the front, and what was measured"])
    legend_below(figure, panels, ncols=3)
    return Drawing(figure, _caption(studies, points, limits, sources))


def constraints(sources: Sources) -> tuple[float | None, float | None]:
    """The largest learned share and loss difference that meet the constraints; None: there is none."""
    settings, plain = settings_of(sources), plain_loss(sources)
    relative = settings.max_relative_loss
    return settings.max_learned_share, None if relative is None or plain is None else relative * plain


def _draw_trials(panel: Axes, name: str, study: Study) -> None:
    many = len(study.number) > _MANY
    look: dict[str, Any] = {
        "linestyle": "none", "marker": STUDY_MARKERS[name], "color": STUDY_COLOURS[name], "markeredgewidth": 0.6,
        "markerfacecolor": "none", "zorder": 2,
    }  # fmt: skip
    size, alpha = (2.0, 0.35) if many else (3.0, 0.6)
    panel.plot(study.learned_share, study.loss_difference, markersize=size, alpha=alpha, **look)
    # In the legend they are not pale.
    panel.plot([], [], label=_TRIALS[name], **look)


def _draw_front(panel: Axes, name: str, study: Study) -> None:
    """Draw steps: from a point on to the right its loss is had, until the next one has less."""
    panel.plot(
        *study.front, drawstyle="steps-post", color=STUDY_COLOURS[name], marker=".", markersize=2.5,
        linewidth=_WIDTHS[name], label=_FRONTS[name], zorder=2.6,
    )  # fmt: skip


def _draw_points(panel: Axes, points: Sequence[Point]) -> None:
    for kind in POINT_LABELS:
        own = [point for point in points if point.kind == kind]
        if not own:
            continue
        shares, losses = [point.learned_share for point in own], [point.loss_difference for point in own]
        x, y = [share.value for share in shares], [loss.value for loss in losses]
        colour = POINT_COLOURS[kind]
        for share, loss in zip(shares, losses, strict=True):
            panel.plot(
                [share.estimated, share.value], [loss.estimated, loss.value], color=GREY, linewidth=0.9, zorder=2.8
            )
        panel.vlines(x, [each.low for each in losses], [each.high for each in losses], color=colour, linewidth=1.0)
        panel.hlines(y, [each.low for each in shares], [each.high for each in shares], color=colour, linewidth=1.0)
        mark_points(panel, kind, x, y)
    own = [point for point in points if point.chosen]
    ring_chosen(panel, [point.learned_share.value for point in own], [point.loss_difference.value for point in own])


def _draw_constraints(panel: Axes, limits: tuple[float | None, float | None]) -> None:
    """Draw what the constraints allow at most, as far as it is inside the panel."""
    bounds, drawn = (panel.get_xlim(), panel.get_ylim()), False
    for limit, (low, high), draw_line in zip(limits, bounds, (upright, level), strict=True):
        if limit is not None and low < limit < high:
            draw_line(panel, limit)
            drawn = True
    if drawn:
        panel.plot([], [], color=CRITERION, linestyle="--", linewidth=0.9, label="limit of a constraint")
    panel.set(xlim=bounds[0], ylim=bounds[1])


def _caption(studies: dict[str, Study], points: Sequence[Point], limits: tuple[float | None, float | None],
             sources: Sources) -> str:  # fmt: skip
    search, control = studies[SEARCH], studies[CONTROL]
    return (
        "What can be had for what? (a) Each mark is a policy, replayed over the calibration trace: the share of the "
        "decisions that are left to the router against the loss over the plain model's, modelled, in nats a token. "
        f"{len(search.number)} complete trials of the search ({SAMPLERS[settings_of(sources).sampler]}) stand beside "
        f"{len(control.number)} at random; steps are the fronts, on which no trial is better in one and no worse in "
        f"the other, of {len(search.front[0])} and {len(control.front[0])} trials. {_limits(limits)} (b) The points "
        "that the model was run with on the tuning split; a grey line leads from what was estimated to what was "
        f"measured. {intervals(sources)} {_chosen(points)}"
    )


def _limits(limits: tuple[float | None, float | None]) -> str:
    share, loss = limits
    said = [] if share is None else [f"a learned share under {percent(share)}"]
    said += [] if loss is None else [f"a loss under {number(loss, 3)} nats"]
    return (
        f"The constraints ask for {' and '.join(said)} (dashed, where inside)." if said else "There are no constraints."
    )


def _chosen(points: Sequence[Point]) -> str:
    return " ".join(
        f"The chosen point (ringed) leaves {percent(point.learned_share.value)} of the decisions to the router and "
        f"changes the loss by {number(point.loss_difference.value, 4, sign=True)} nats; "
        f"{percent(point.learned_share.estimated)} and {number(point.loss_difference.estimated, 4, sign=True)} "
        "were estimated."
        for point in points
        if point.chosen
    )
