"""What all of it says: the classic constraints, met or not, and one sentence."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from var_core.config.policy import EvaluationConfig
from var_core.evaluation import names
from var_core.evaluation.paired import MarginTest, margin_verdict
from var_core.evaluation.results import Row, find

CLASSIC_LEARNED, CLASSIC_LOSS, CLASSIC_SPEED = 0.15, 0.05, 1.0
"""The constraints of the first proof of concept: learned share below, relative loss below, speed-up above."""


@dataclass(frozen=True)
class Constraint:
    """A line of the classic table."""

    arm: str
    measure: str
    value: float | None
    low: float | None
    high: float | None
    asked: str
    met: str
    """yes or no where the whole interval says so; open where the interval holds the limit; empty where none is asked"""


def classic_table(rows: Sequence[Row], speed: Mapping[str, Any]) -> list[Constraint]:
    """The classic metrics of the policy and of the classic predicate beside it."""
    lines = []
    for arm in (names.POLICY, names.CLASSIC):
        lines += [
            _line(rows, arm, "learned_share", below=CLASSIC_LEARNED),
            _line(rows, arm, "relative_loss", below=CLASSIC_LOSS),
            *(_line(rows, arm, measure) for measure in ("fast_share", "cache_share", "cache_hit_rate")),
        ]
    own = (speed["median"], speed["low"], speed["high"])
    met = _met(*own, below=None, above=CLASSIC_SPEED)
    return [Constraint(names.POLICY, "speed_up", *own, f"> {CLASSIC_SPEED:g}", met), *lines]


def _line(rows: Sequence[Row], arm: str, measure: str, below: float | None = None) -> Constraint:
    row = find(rows, arm, measure)
    if row is None:
        return Constraint(arm, measure, None, None, None, "" if below is None else f"< {below:g}", "")
    met = "" if below is None else _met(row.value, row.low, row.high, below=below, above=None)
    return Constraint(arm, measure, row.value, row.low, row.high, "" if below is None else f"< {below:g}", met)


def _met(value: float | None, low: float | None, high: float | None, below: float | None, above: float | None) -> str:
    if value is None or low is None or high is None:
        return "open"
    if below is not None:
        return "yes" if high < below else "no" if low >= below else "open"
    assert above is not None
    return "yes" if low > above else "no" if high <= above else "open"


def verdict(
    rows: Sequence[Row],
    gains: Sequence[Mapping[str, Any]],
    certificate: Mapping[str, Any],
    speed: Mapping[str, Any],
    config: EvaluationConfig,
) -> dict[str, Any]:
    """The numbers that matter, and the sentence.

    Parameters
    ----------
    rows : sequence of Row
        Of :func:`var_core.evaluation.results.evaluation_rows`.
    gains : sequence of mapping
        Rows of :data:`var_core.evaluation.on_traces.GAINS`.
    certificate : mapping
    speed : mapping
        A :class:`var_core.evaluation.timing.Speed`.
    config : EvaluationConfig
    """
    coverage, relative = (_needed(rows, names.POLICY, measure) for measure in ("coverage", "relative_loss"))
    agreement = find(rows, names.POLICY, "set_agreement")
    within = _needed(rows, names.POLICY, "p_within_margin").value
    beyond = _needed(rows, names.POLICY, "p_beyond_margin").value
    margin = margin_words(within, beyond, config)
    controls = {
        arm: asdict(row)
        for arm in (names.GLOBAL_TABLE + names.SAME_COVERAGE, names.RANDOM_EXPERTS + names.SAME_COVERAGE)
        if (row := find(rows, arm, "relative_loss")) is not None
    }
    return {
        "sentence": sentence(coverage, relative, agreement, margin, certificate, speed, config),
        "notes": sorted({row.note for row in rows if row.note}),
        "coverage": asdict(coverage),
        "relative_loss": asdict(relative),
        "set_agreement": None if agreement is None else asdict(agreement),
        "margin": margin,
        "controls": controls,
        "speed_up": dict(speed),
        "classic": [asdict(line) for line in classic_table(rows, speed)],
        "best_gain": max(
            (row for row in gains if row["measure"] == "set_agreement"), key=lambda row: row["gain"], default=None
        ),
    }


def margin_words(within: float | None, beyond: float | None, config: EvaluationConfig) -> str:
    """The verdict of the non-inferiority test; inconclusive where there was none."""
    if within is None or beyond is None:
        return "inconclusive"
    return margin_verdict(MarginTest(within, beyond), config.alpha)


def sentence(
    coverage: Row, relative: Row, agreement: Row | None, margin: str, certificate: Mapping[str, Any],
    speed: Mapping[str, Any], config: EvaluationConfig,
) -> str:  # fmt: skip
    """What VAR can do for this model, in one line."""
    said = [f"{coverage.value:.1%}{_ends(coverage)} of routing decisions {_without(coverage, certificate)}"]
    if agreement is not None:
        said.append(f"{agreement.value:.1%} of these are the router's own{_certified(certificate)}")
    allowed = f"{config.margin:.0%} of the {config.margin_kind}"
    within = f"inconclusive for a margin of {allowed}" if margin == "inconclusive" else f"{margin} of {allowed}"
    said.append(f"the loss changes by {relative.value:+.2%}{_ends(relative, sign=True)}, {within}")
    faster = "faster" if speed["low"] > 1 else "slower" if speed["high"] < 1 else "neither faster nor slower"
    said.append(
        f"on this machine ({speed['device']}) the forward pass is {faster}: {speed['median']:.2f} times the plain "
        f"model's speed (quartiles {speed['low']:.2f} to {speed['high']:.2f})"
    )
    return "; ".join(said)


def _certified(certificate: Mapping[str, Any]) -> str:
    promised = [each["bound"] for each in certificate["promises"] if each["name"] == "set_agreement"]
    if not promised:
        return ""
    confidence = certificate["terms"]["confidence"]
    return (
        f" (on average over sequences at least {min(promised):.2f} at each of {len(promised)} layers, with confidence "
        f"{confidence:g})"
    )


def _without(coverage: Row, certificate: Mapping[str, Any]) -> str:
    if certificate.get("budget"):
        return "are not the router's, which still runs where no table speaks (a budget limits its decisions)"
    if coverage.weights == "live":
        return "are made without the router, which still weights the experts (live weights)"
    return "need no router (stored weights)"


def _needed(rows: Sequence[Row], arm: str, measure: str) -> Row:
    row = find(rows, arm, measure)
    if row is None:
        raise ValueError(f"no row {measure} of arm {arm}")
    return row


def _ends(row: Row, sign: bool = False) -> str:
    if row.low is None or row.high is None:
        return ""
    return f" [{row.low:{'+' if sign else ''}.2%}, {row.high:{'+' if sign else ''}.2%}]"
