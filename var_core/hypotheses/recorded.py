"""What was recorded of a run, and the rows that say what could not be tested without the rest."""

from dataclasses import dataclass

from var_core.hypotheses.resampling import Direction
from var_core.hypotheses.results import Form, HypothesisName, Result

NOT_TESTED = "not tested: "
"""How the note of a row begins that stands for a test without its data."""

_WORDS = {
    "token_ids": "token ids were not recorded",
    "logits": "router logits were not recorded",
    "weights": "weights were not recorded, so nobody knows first choices",
    "heldout": "nothing was held out",
}


@dataclass(frozen=True)
class Recorded:
    """Parts of a run that may be missing; a capture has them all, what others recorded often has not."""

    token_ids: bool
    logits: bool
    weights: bool
    heldout: bool

    def missing(self, *needed: str) -> str | None:
        """Say which of the needed parts are missing; None where all are there. Without token ids no other matters."""
        if "token_ids" in needed and not self.token_ids:
            return _WORDS["token_ids"]
        absent = [_WORDS[part] for part in needed if not getattr(self, part)]
        return "; ".join(absent) or None


def not_tested(
    hypothesis: HypothesisName,
    form: Form,
    variant: str,
    measure: str,
    reason: str,
    n_unit: str = "token types",
    threshold: float | None = None,
    direction: Direction | None = None,
    layer: int | None = None,
) -> Result:
    """Return the row of a test whose data were not recorded: inconclusive where it makes a claim, and why."""
    return Result(
        hypothesis=hypothesis,
        form=form,
        variant=variant,
        layer=layer,
        measure=measure,
        statistic=None,
        n=0,
        n_unit=n_unit,
        threshold=threshold,
        direction=direction,
        note=f"{NOT_TESTED}{reason}",
    )
