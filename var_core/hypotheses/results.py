"""What a test of a hypothesis says: typed rows, the rule of the verdict, and the files they are kept in."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from var_core.errors import VarError
from var_core.files import read_json, write_json
from var_core.hypotheses.resampling import Direction, Interval
from var_core.parquet import write_table

HypothesisName = Literal["H1", "H2", "H3", "H4"]
Form = Literal["as stated", "corrected", "detail"]
Verdict = Literal["supported", "not supported", "inconclusive", "reported"]

CLAIMS: dict[HypothesisName, str] = {
    "H1": "frequent tokens route with low entropy",
    "H2": "token frequencies follow Zipf's law",
    "H3": "frequent tokens route consistently",
    "H4": "much of the text is eligible for the fast path",
}


class Record(BaseModel):
    """A frozen record whose field docstrings become the descriptions in its JSON schema."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Result(Record):
    """One statistic of one hypothesis at one layer, or pooled over layers."""

    hypothesis: HypothesisName
    """H1, H2, H3 or H4"""
    form: Form
    """as stated: as first put forward; corrected: what the verdict should rest on; detail: what explains them"""
    variant: str
    """which test this is, for example ``minimum count 10``"""
    layer: int | None
    """MoE layer from 0; null: pooled over layers (or about tokens, which have no layer)"""
    measure: str
    """what the statistic is, for example ``spearman(frequency, mean_router_entropy)``"""
    statistic: float | None
    """its value; null where it is not defined"""
    low: float | None = None
    """lower end of the confidence interval"""
    high: float | None = None
    """upper end of the confidence interval"""
    confidence: float | None = None
    """confidence of the interval"""
    interval_method: str | None = None
    """how the interval was made"""
    p: float | None = None
    """p-value against ``null``"""
    p_adjusted: float | None = None
    """p-value after Benjamini-Hochberg over the layers of the same test"""
    p_below: float | None = None
    """``p_adjusted`` that support asks for, beside the interval; null: none"""
    null: str | None = None
    """the null that ``p``, ``null_mean`` and ``null_sd`` come from"""
    null_mean: float | None = None
    """the statistic's mean under the null: what it would be if there were nothing to find"""
    null_sd: float | None = None
    """the statistic's standard deviation under the null"""
    n: int
    """sample size, in ``n_unit``"""
    n_unit: str
    """what ``n`` counts"""
    threshold: float | None = None
    """value that the claim compares the statistic with; null: no claim, the row is reported"""
    direction: Direction | None = None
    """side of the threshold that the claim is about"""
    supportable: bool = True
    """false where the row cannot support the claim whatever its interval; the note says why"""
    verdict: Verdict = "reported"
    """supported, not supported, inconclusive, or reported (no claim)"""
    note: str = ""
    """what a reader must know beside the numbers"""


def decide(row: Result) -> Verdict:
    """Give the verdict on a row; the only place where verdicts are made.

    ========================================================  =====================================
    no threshold                                               reported
    no statistic, or no interval (too little data)             inconclusive
    the whole interval on the other side of the threshold      not supported
    the whole interval on the claimed side                     supported, if the row is supportable
                                                               and p_adjusted < p_below where asked;
                                                               else inconclusive
    the interval holds the threshold                           inconclusive
    ========================================================  =====================================

    Claims are strict: an interval that ends on the threshold from the other side does not support them.
    """
    if row.threshold is None:
        return "reported"
    if row.statistic is None or row.low is None or row.high is None:
        return "inconclusive"
    above = row.direction == "above"
    if row.high <= row.threshold if above else row.low >= row.threshold:
        return "not supported"
    claimed = row.low > row.threshold if above else row.high < row.threshold
    significant = row.p_below is None or (row.p_adjusted is not None and row.p_adjusted < row.p_below)
    return "supported" if claimed and significant and row.supportable else "inconclusive"


def finite(value: float | np.floating | None) -> float | None:
    """Return the value as a plain float, or None where it is not a finite number."""
    return None if value is None or not np.isfinite(value) else float(value)


def interval_columns(interval: Interval | None, confidence: float, method: str) -> dict[str, Any]:
    """Return the columns of a row that an interval fills; none of them where there is no interval."""
    if interval is None:
        return {}
    return {"low": interval.low, "high": interval.high, "confidence": confidence, "interval_method": method}


def null_columns(name: str, draws: NDArray[np.float64]) -> dict[str, Any]:
    """Return the columns of a row that say what the statistic is under a null."""
    known = draws[np.isfinite(draws)]
    if not len(known):
        return {"null": name}
    return {"null": name, "null_mean": float(known.mean()), "null_sd": float(known.std())}


class Curve(Record):
    """Coverage against agreement: tokens are covered in order of their calibrated agreement, best first."""

    measure: str
    """agreement measure"""
    layer: int | None
    """MoE layer; null: all layers together"""
    threshold: tuple[float, ...]
    """types with at least this calibrated agreement are covered"""
    coverage: tuple[float, ...]
    """share of the test half's decisions that are covered"""
    agreement: tuple[float | None, ...]
    """agreement with the learned router over those"""
    low: tuple[float | None, ...]
    """lower end of its interval (bootstrap over groups of documents, of one way of halving them)"""
    high: tuple[float | None, ...]
    """upper end of its interval"""
    promised: tuple[float | None, ...]
    """agreement over the covered that the calibration half promised"""
    global_table: float | None
    """agreement of the same k experts for all tokens, over everything"""
    shuffled_labels: float | None
    """agreement of the token table with its token labels shuffled, over everything"""
    chance: float | None
    """agreement of a blind guess"""


class Transfer(Record):
    """A token table fitted on one domain, used on another."""

    measure: str
    """agreement measure"""
    layer: int | None
    """MoE layer; null: all layers together"""
    source: str
    """domain of the capture split that the table was fitted on"""
    target: str
    """domain of the held-out split that it was used on"""
    agreement: float | None
    """agreement over all held-out decisions of the target"""
    decisions: int
    """how many those are"""
    coverage: float | None
    """share of the target's test half that the cut calibrated on the source covers"""
    covered_agreement: float | None
    """agreement over those; below the target of H4 where the promise does not transfer"""


class Verdicts(Record):
    """All results of a run, with what they were made from."""

    run: str
    """the run's name, ``{model}/{corpus}``"""
    provenance: dict[str, Any]
    """model, corpus, settings and code"""
    versions: dict[str, str]
    """library versions"""
    samples: dict[str, int]
    """sample sizes"""
    results: tuple[Result, ...]
    """all rows"""
    curves: tuple[Curve, ...]
    """coverage against agreement"""
    transfers: tuple[Transfer, ...]
    """agreement across domains"""

    def headline(self) -> tuple[Result, ...]:
        """Return the rows with a verdict, as stated and corrected, pooled over layers: what a summary shows."""
        return tuple(row for row in self.results if row.layer is None and row.form != "detail")


_ARROW_TYPES = {"n": pa.int64(), "layer": pa.int16(), "supportable": pa.bool_()}
_TEXT = {
    "hypothesis",
    "form",
    "variant",
    "measure",
    "interval_method",
    "null",
    "n_unit",
    "direction",
    "verdict",
    "note",
}
_REQUIRED = {"hypothesis", "form", "variant", "measure", "n", "n_unit", "supportable", "verdict", "note"}

RESULTS = pa.schema(
    [
        pa.field(
            name, pa.string() if name in _TEXT else _ARROW_TYPES.get(name, pa.float64()), nullable=name not in _REQUIRED
        )
        for name in Result.model_fields
    ]
)
"""Schema of ``verdicts.parquet``: a row a :class:`Result`, a column a field."""


def write_verdicts(verdicts: Verdicts, folder: Path) -> None:
    """Write ``verdicts.json`` (everything) and ``verdicts.parquet`` (the rows) into `folder`."""
    write_json(folder / "verdicts.json", verdicts.model_dump(mode="json"))
    rows = [row.model_dump() for row in verdicts.results]
    write_table(folder / "verdicts.parquet", pa.Table.from_pylist(rows, schema=RESULTS), verdicts.provenance)


def read_verdicts(path: Path) -> Verdicts:
    """Read ``verdicts.json``.

    Raises
    ------
    VarError
        If the file is missing, is not JSON, or does not hold verdicts.
    """
    value = read_json(path)
    try:
        return Verdicts.model_validate(value)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in fault["loc"])
        raise VarError(f"{path}: {key}: {fault['msg']}; delete it and run the hypotheses stage again") from None
