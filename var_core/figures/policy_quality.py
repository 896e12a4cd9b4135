"""What routing without the router costs: loss beside the plain model's against the share of replaced decisions."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from var_core.evaluation import names
from var_core.evaluation.paired import Margin, excess_over_margin
from var_core.evaluation.verdict import margin_words
from var_core.figures.policies import ARM_COLOURS, Estimate, Evaluation, confidence, settings_of
from var_core.figures.sources import Drawing, Sources, number, percent, with_interval
from var_core.figures.style import (
    GREY,
    PAGE,
    SMALL,
    legend_below,
    letter_panels,
    level,
    moved_apart,
    new_figure,
)

NEEDS = ("policy",)
"""What must have been recorded of the run."""

_LABELS = {
    names.POLICY: "policy",
    names.TABLES_ONLY: "without its cache",
    names.CONFIGURED: "as configured, before tuning",
    names.CLASSIC: "classic predicate",
    names.TOKEN_TABLE: "token table",
    names.GLOBAL_TABLE: "control: same experts for all",
    names.RANDOM_EXPERTS: "control: random experts",
}
_MARKERS = {
    names.POLICY: "o",
    names.TABLES_ONLY: "D",
    names.CONFIGURED: "v",
    names.CLASSIC: "s",
    names.TOKEN_TABLE: "^",
    names.GLOBAL_TABLE: "X",
    names.RANDOM_EXPERTS: "P",
}
_BESIDE = (names.TABLES_ONLY, names.CONFIGURED, names.CLASSIC, names.TOKEN_TABLE)
_CONTROLS = (names.GLOBAL_TABLE, names.RANDOM_EXPERTS)
_DWARFS = 3
"""How many times larger than another a cost is that is not shown beside it."""


@dataclass(frozen=True)
class Point:
    """An arm: what it covers, and what it costs in nats a token."""

    arm: str
    coverage: float
    cost: Estimate

    @property
    def value(self) -> float:
        """The cost itself."""
        assert self.cost.statistic is not None
        return self.cost.statistic


def draw(sources: Sources) -> Drawing:
    """Draw the loss difference of every arm against its coverage: all of them, and close up."""
    evaluation = Evaluation(sources)
    curve, margin = threshold_curve(evaluation), margin_in_nats(evaluation, sources)
    figure = new_figure(PAGE, 3.1)
    whole, close = figure.subplots(1, 2)
    limits = close_up(evaluation, curve, margin)
    for panel, highest in ((whole, np.inf), (close, limits[1])):
        _draw_arms(panel, evaluation, curve, highest)
        if margin < highest:
            level(panel, margin, label=f"margin, {number(margin, 3)} nats")
        level(panel, 0.0, GREY, "-")
        panel.set_xlim(-0.02, 1.02)
        panel.xaxis.set_major_formatter(PercentFormatter(1.0))
        panel.set_xlabel("share of decisions without the router")
        panel.set_ylabel("loss difference (nats a token)")
    close.set_ylim(limits)
    figure.canvas.draw()
    _name_thresholds(close, curve, sources)
    letter_panels([whole, close], ["all arms", "close up; in blue, thresholds of agreement"])
    legend_below(figure, [whole], ncols=4)
    return Drawing(figure, _caption(evaluation, curve, margin, sources))


def threshold_curve(evaluation: Evaluation) -> list[Point]:
    """The policy and its other thresholds of agreement, by coverage."""
    arms = [arm for arm in evaluation.arms if arm == names.POLICY or arm.startswith(names.THRESHOLD)]
    return sorted(_points(evaluation, arms), key=lambda point: (point.coverage, point.arm))


def margin_in_nats(evaluation: Evaluation, sources: Sources) -> float:
    """What the configured margin comes to for this model on this text."""
    plain = np.array([evaluation.find(names.PLAIN, "loss").statistic], dtype=np.float64)
    settings = settings_of(sources)
    margin = Margin(settings.margin, settings.margin_kind)
    return -float(excess_over_margin(plain, plain, np.ones(1), margin)[0])


def close_up(evaluation: Evaluation, curve: Sequence[Point], margin: float) -> tuple[float, float]:
    """Limits that show what costs the least: the policy's curve and the margin, unless either dwarfs the other."""
    points = [*curve, *_points(evaluation, _BESIDE)]
    ends = [end for point in points for end in (point.value, point.cost.low, point.cost.high) if end is not None]
    inside = [end for end in ends if end <= _DWARFS * margin]
    low, high = min([0.0, *inside]), max([0.0, *inside])
    if margin <= _DWARFS * high or high == low:
        high = max(high, margin)
    room = 0.06 * (high - low)
    return low - room, high + 3 * room


def _points(evaluation: Evaluation, arms: Sequence[str]) -> Iterator[Point]:
    for arm in arms:
        coverage, cost = (evaluation.find(arm, measure) for measure in ("coverage", "loss_difference"))
        if coverage.statistic is not None and cost.statistic is not None:
            yield Point(arm, coverage.statistic, cost)


def _draw_arms(panel: Axes, evaluation: Evaluation, curve: Sequence[Point], highest: float) -> None:
    """Draw all arms that cost no more than the highest, and the curve."""

    def drawn(*arms: str) -> list[Point]:
        return [point for point in _points(evaluation, arms) if (point.cost.high or point.value) < highest]

    for arm in _BESIDE:
        _draw_points(panel, drawn(arm), arm)
    for control in _CONTROLS:
        # The same control twice: where the tables decide, and everywhere.
        _draw_points(panel, drawn(control + names.SAME_COVERAGE, control), control, ":")
    colour = ARM_COLOURS[names.POLICY]
    _draw_points(panel, curve, names.POLICY, "-", label="policy by threshold of agreement", size=2.5)
    own = [point for point in curve if point.arm == names.POLICY]
    panel.plot(
        [point.coverage for point in own], [point.value for point in own], "o", color=colour, markersize=5.0,
        markeredgecolor="black", label="policy", zorder=4, clip_on=True,
    )  # fmt: skip


def _draw_points(
    panel: Axes, points: Sequence[Point], arm: str, line: str = "", label: str | None = None, size: float = 4.5
) -> None:
    if not points:
        return
    colour = ARM_COLOURS[arm]
    x, y = [point.coverage for point in points], [point.value for point in points]
    low, high = (np.array([getattr(point.cost, end) for point in points], dtype=np.float64) for end in ("low", "high"))
    panel.vlines(x, low, high, color=colour, linewidth=1.0, zorder=2.5)
    panel.plot(
        x, y, color=colour, marker=_MARKERS[arm], markersize=size, linestyle=line or "none", zorder=3,
        label=label or _LABELS[arm],
    )  # fmt: skip


def _name_thresholds(panel: Axes, curve: Sequence[Point], sources: Sources) -> None:
    """Write the thresholds in a row at the top of the panel, each over its point, moved apart where they are close."""
    width = panel.get_window_extent().width * 72 / panel.figure.dpi
    left, right = panel.get_xlim()
    top = panel.get_ylim()[1]
    named = [point for point in curve if point.arm != names.POLICY]
    spots = moved_apart([(point.coverage - left) / (right - left) * width for point in named], SMALL * 2.2)
    for spot, point in zip(spots, named, strict=True):
        panel.annotate(
            point.arm.removeprefix(names.THRESHOLD), (point.coverage, min(point.value, top)), (spot / width, 0.98),
            "data", "axes fraction", color=ARM_COLOURS[names.POLICY], ha="center", va="top", annotation_clip=False,
            arrowprops={"arrowstyle": "-", "linewidth": 0.4, "color": GREY, "shrinkA": 0, "shrinkB": 3},
        )  # fmt: skip


def _caption(evaluation: Evaluation, curve: Sequence[Point], margin: float, sources: Sources) -> str:
    settings = settings_of(sources)
    coverage, cost, relative, within, beyond = (
        evaluation.find(names.POLICY, measure)
        for measure in ("coverage", "loss_difference", "relative_loss", "p_within_margin", "p_beyond_margin")
    )
    verdict = margin_words(within.statistic, beyond.statistic, settings)
    p_value = "" if within.statistic is None else f" (p {_p(within.statistic)})"
    return (
        "What does routing without the router cost? All arms run on the same unseen text; each is a share of decisions "
        "that are not the router's against the loss over the plain model's, in nats a token, with intervals of "
        f"{confidence(sources)} by a bootstrap over groups of documents. The policy (large dot) "
        f"replaces {coverage.shares} of the decisions and changes the loss by {with_interval(cost, 4, sign=True)} nats "
        f"({_share(relative)}), {verdict}{p_value}; the margin is {settings.margin:g} of the plain model's "
        f"{settings.margin_kind}, a loss of {number(margin, 3)} nats more (dashed). {_told(evaluation)} "
        "Controls stand twice, for the decisions that the tables take and for all. "
        "(b) The same close to the policy; what costs more than is shown is in (a) only."
    )


def _told(evaluation: Evaluation) -> str:
    """Say what the other arms come to, as far as they were run."""
    sentences = (
        (
            names.CLASSIC,
            "The classic predicate, frequent token ids of low router entropy, replaces {coverage}: {cost}.",
        ),
        (names.TOKEN_TABLE, "Every decision from the table by token id, {coverage}: {cost}."),
        (names.GLOBAL_TABLE + names.SAME_COVERAGE, "The same experts for all tokens in place of the tables: {cost}."),
        (names.RANDOM_EXPERTS + names.SAME_COVERAGE, "Random experts in place of the tables: {cost}."),
        (names.RANDOM_EXPERTS, "Random experts everywhere: {cost}."),
    )
    return " ".join(
        sentence.format(coverage=percent(point.coverage), cost=number(point.value, 4, sign=True))
        for arm, sentence in sentences
        for point in _points(evaluation, [arm])
    )


def _share(relative: Estimate) -> str:
    """Write a relative difference as a percentage with its interval."""
    hundredfold = (None if end is None else 100 * end for end in (relative.statistic, relative.low, relative.high))
    return with_interval(Estimate(*hundredfold), 2, sign=True) + " per cent"


def _p(value: float) -> str:
    return "under 0.0001" if value < 0.0001 else number(value, 4)
