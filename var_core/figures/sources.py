"""What figures are drawn from, and what a figure module gives back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import duckdb
import pyarrow as pa
from matplotlib.figure import Figure

from var_core.config.hypotheses import HypothesesConfig
from var_core.errors import VarError
from var_core.hypotheses.data import Layer, RunData
from var_core.hypotheses.results import Curve, HypothesisName, Result, Verdicts


class WithInterval(Protocol):
    """A number with its interval: a row of the verdicts, or of an evaluation."""

    @property
    def statistic(self) -> float | None:
        """The number."""

    @property
    def low(self) -> float | None:
        """Lower end."""

    @property
    def high(self) -> float | None:
        """Upper end."""


@dataclass(frozen=True)
class Sources:
    """One run: its tables, what the hypotheses stage found, and how its model was trained.

    Attributes
    ----------
    connection : duckdb.DuckDBPyConnection
        A database with the warehouse's tables and views.
    run : str
        The run's name, ``{model}/{corpus}``.
    verdicts : Verdicts
        Results and curves of the run.
    training : mapping, optional
        ``training.json`` of a model that the workflow trained.
    evaluation : mapping, optional
        Settings that the run's policy was evaluated with.
    tuning : mapping, optional
        Settings of the search for the policy's.
    systems : mapping, optional
        Settings of the caches of experts that its routing was replayed through.
    """

    connection: duckdb.DuckDBPyConnection
    run: str
    verdicts: Verdicts
    training: Mapping[str, Any] | None = None
    evaluation: Mapping[str, Any] | None = None
    tuning: Mapping[str, Any] | None = None
    systems: Mapping[str, Any] | None = None

    @cached_property
    def data(self) -> RunData:
        """Counts and moments by token type, special tokens left out."""
        return RunData(self.connection, self.run)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """All MoE layers."""
        return self.data.layers

    def missing(self, needs: Sequence[str]) -> str | None:
        """Say which of a figure's needs were not recorded; None where all were.

        Parameters
        ----------
        needs : sequence of str
            Fields of :class:`~var_core.hypotheses.recorded.Recorded`, or ``pairs``: which experts were chosen together,
            or ``curves``: coverage against agreement, or ``policy``: that one was made and evaluated, or ``tuning``:
            that its settings were searched, or ``systems``: that its routing was replayed through caches of experts,
            or ``profile``: that its model was run and timed.
        """
        known = self.data.recorded
        reasons = [known.missing(*(need for need in needs if hasattr(known, need)))]
        if "pairs" in needs and not len(self.query("SELECT 1 FROM coactivation WHERE run = $run LIMIT 1")):
            reasons.append("only sums over decisions were recorded, not which experts were chosen together")
        if "curves" in needs and not self.verdicts.curves and not any(reasons):
            reasons.append("the agreement that H4 asks for could not be tested")
        if "policy" in needs and self.evaluation is None:
            reasons.append("no policy was evaluated")
        if "tuning" in needs and self.tuning is None:
            reasons.append("no policy was tuned")
        if self.systems is None and {"systems", "profile"} & set(needs):
            reasons.append("nobody asked what its routing is worth")
        elif "profile" in needs and not len(self.query("SELECT 1 FROM profiles WHERE run = $run LIMIT 1")):
            reasons.append("no model was run, so nothing was timed")
        return "; ".join(reason for reason in reasons if reason) or None

    @cached_property
    def tested(self) -> HypothesesConfig:
        """The settings that the hypotheses were tested with: thresholds, minimum counts, seed."""
        return HypothesesConfig.model_validate(self.verdicts.provenance["config"])

    def query(self, sql: str, **named: Any) -> pa.Table:
        """Run a query in which ``$run`` is the run's name."""
        return self.connection.sql(sql, params={"run": self.run, **named}).to_arrow_table()

    def result(self, hypothesis: HypothesisName, variant: str, measure: str, layer: int | None = None) -> Result:
        """Find one row of the verdicts; `layer` None is the one over all layers.

        Raises
        ------
        VarError
            If there is none.
        """
        for row in self.verdicts.results:
            if (row.hypothesis, row.variant, row.measure, row.layer) == (hypothesis, variant, measure, layer):
                return row
        place = "over all layers" if layer is None else f"of layer {layer}"
        raise VarError(
            f"run {self.run}: the verdicts have no row {place} for {hypothesis}, {variant}, {measure}; "
            "run the hypotheses stage again"
        )

    def results_by_layer(self, hypothesis: HypothesisName, variant: str, measure: str) -> list[Result]:
        """Find the rows of all layers, in their order."""
        return [self.result(hypothesis, variant, measure, layer.layer) for layer in self.layers]

    def curves(self, measure: str) -> tuple[Curve, list[Curve]]:
        """Coverage against agreement: over all layers, and of each layer.

        Raises
        ------
        VarError
            If there are none.
        """
        found = [curve for curve in self.verdicts.curves if curve.measure == measure]
        pooled = [curve for curve in found if curve.layer is None]
        if not pooled:
            raise VarError(f"run {self.run}: the verdicts have no curve of {measure}; run the hypotheses stage again")
        return pooled[0], [curve for curve in found if curve.layer is not None]


@dataclass(frozen=True)
class Drawing:
    """A figure, and what it says about this run.

    Attributes
    ----------
    figure : matplotlib.figure.Figure
    caption : str
        Plain sentences: the question, how to read the figure, and what this run's numbers mean. They go into the HTML
        report as reStructuredText, so they hold no markup.
    """

    figure: Figure
    caption: str


def spread_layers(layers: Sequence[Layer], at_most: int) -> list[Layer]:
    """Choose layers at even distances, the first and the last among them.

    Parameters
    ----------
    layers : sequence of Layer
    at_most : int
        Number of layers wanted; all are returned when there are no more.
    """
    if len(layers) <= at_most:
        return list(layers)
    if at_most == 1:
        return [layers[len(layers) // 2]]
    last = len(layers) - 1
    return [layers[round(place * last / (at_most - 1))] for place in range(at_most)]


def shown_layers(shown: Sequence[Layer], layers: Sequence[Layer]) -> str:
    """Say in a caption which layers are shown where not all are; an empty string where all are."""
    if len(shown) == len(layers):
        return ""
    numbers = ", ".join(str(layer.layer) for layer in shown)
    return f" Of {len(layers)} layers, {numbers} are shown."


def number(value: float | None, digits: int = 2, sign: bool = False) -> str:
    """Write a number for a caption; ``undefined`` where there is none."""
    return "undefined" if value is None else f"{value:{'+' if sign else ''}.{digits}f}".replace("-", "−")


def minus(value: float) -> str:
    """Write a setting as it was given, with a true minus sign."""
    return f"{value:g}".replace("-", "−")


def percent(value: float | None) -> str:
    """Write a share as a percentage, with more digits where it is small."""
    if value is None:
        return "undefined"
    if 0 < value < 0.0005:
        return "under 0.1 %"
    digits = 1 if 0 < value < 0.1 or 0.9 < value < 1 else 0
    return f"{100 * value:.{digits}f} %"


def short_percent(value: float) -> str:
    """Write a share as a percentage with one digit, for columns of them."""
    return "< 0.1 %" if 0 < value < 0.0005 else f"{100 * value:.1f} %"


def with_interval(row: WithInterval, digits: int = 2, sign: bool = False) -> str:
    """Write a result with its interval, for example ``0.82 [0.80, 0.84]``."""
    text = number(row.statistic, digits, sign)
    if row.low is None or row.high is None:
        return text
    return f"{text} [{number(row.low, digits, sign)}, {number(row.high, digits, sign)}]"
