"""What the figures of policies share: numbers of an evaluation with their intervals, and how ways and arms look."""

from collections.abc import Sequence
from dataclasses import dataclass

from var_core.config.policy import EvaluationConfig
from var_core.evaluation import names
from var_core.figures.sources import Drawing, Sources, number, short_percent
from var_core.figures.style import (
    BLUE,
    GREEN,
    GREY,
    LIGHT_GREY,
    ORANGE,
    PAGE,
    PURPLE,
    SKY,
    VERMILLION,
    empty_panel,
    new_figure,
)
from var_core.hypotheses.data import Layer

WAYS = ("fast", "cached", "learned")
"""Ways of a decision, in the order in which they are tried."""
WAY_COLOURS = {"fast": BLUE, "cached": ORANGE, "learned": LIGHT_GREY}
SHARES = {"fast": "fast_share", "cached": "cache_share", "learned": "learned_share"}
"""The measure of each way's share."""

ARM_COLOURS = {
    names.POLICY: BLUE,
    names.TABLES_ONLY: SKY,
    names.CONFIGURED: GREY,
    names.CLASSIC: PURPLE,
    names.TOKEN_TABLE: GREEN,
    names.GLOBAL_TABLE: ORANGE,
    names.RANDOM_EXPERTS: VERMILLION,
}


@dataclass(frozen=True)
class Estimate:
    """A number with its interval, None where there is none."""

    statistic: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def shares(self) -> str:
        """Written as percentages, for example ``37.0 % [35.1 %, 39.2 %]``."""
        if self.statistic is None:
            return "not known"
        text = short_percent(self.statistic)
        if self.low is None or self.high is None:
            return text
        return f"{text} [{short_percent(self.low)}, {short_percent(self.high)}]"


NOTHING = Estimate()
"""What stands for a number that the evaluation does not have."""


class Evaluation:
    """The numbers of a run's evaluation, by arm, measure and layer.

    Parameters
    ----------
    sources : Sources
    """

    def __init__(self, sources: Sources) -> None:
        table = sources.query("SELECT arm, layer, measure, value, low, high FROM evaluations WHERE run = $run")
        self._rows = {
            (row["arm"], row["measure"], row["layer"]): Estimate(row["value"], row["low"], row["high"])
            for row in table.to_pylist()
        }
        self.arms = frozenset(arm for arm, _, _ in self._rows)

    def find(self, arm: str, measure: str, layer: int | None = None) -> Estimate:
        """One number, over all layers or at one; :data:`NOTHING` where there is none, as of a way that nothing took."""
        return self._rows.get((arm, measure, layer), NOTHING)

    def by_layer(self, arm: str, measure: str, layers: Sequence[Layer]) -> list[Estimate]:
        """The numbers of all layers, in their order."""
        return [self.find(arm, measure, layer.layer) for layer in layers]


def extremes(values: Sequence[tuple[int, float]], digits: int = 2, sign: bool = False) -> str:
    """Say from what to what values of layers go, and where: ``from 0.71 (layer 3) to 0.93 (layer 0)``."""
    low, high = (choose(values, key=lambda pair: pair[1]) for choose in (min, max))
    if number(low[1], digits, sign) == number(high[1], digits, sign):
        return f"{number(low[1], digits, sign)} at every layer" if len(values) > 1 else number(low[1], digits, sign)
    return f"from {number(low[1], digits, sign)} (layer {low[0]}) to {number(high[1], digits, sign)} (layer {high[0]})"


def settings_of(sources: Sources) -> EvaluationConfig:
    """The settings that the run's policy was evaluated with: margin, confidence."""
    return EvaluationConfig.model_validate(sources.evaluation)


def confidence(sources: Sources) -> str:
    """Confidence of the evaluation's intervals, as it was given: ``95 %``."""
    return f"{100 * settings_of(sources).confidence:g} %"


def nothing_to_draw(title: str, why: str, caption: str) -> Drawing:
    """A figure of a policy that this run cannot have, which says why."""
    figure = new_figure(PAGE, 1.2)
    panel = figure.subplots()
    empty_panel(panel, why)
    panel.set_title(title, loc="left")
    return Drawing(figure, caption)
