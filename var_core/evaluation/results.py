"""What came of the arms of an evaluation, as rows: losses beside the plain model's, ways, agreement; with intervals."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from var_core.config.policy import EvaluationConfig
from var_core.errors import VarError
from var_core.evaluation import names
from var_core.evaluation.arms import Arm
from var_core.evaluation.paired import LossComparison, Margin, compare_losses
from var_core.evaluation.text import Text
from var_core.hypotheses.resampling import MINIMUM_CLUSTERS, bootstrap_weights, generator, ratio_intervals
from var_core.models.perplexity import SequenceScores
from var_core.parquet import read_table
from var_core.policy.bounds import sums_by
from var_core.policy.settings import Weights
from var_core.policy.ways import Way

Floats = NDArray[np.float64]
LEARNED, FAST, CACHED = int(Way.LEARNED), int(Way.FAST), int(Way.CACHED)
REPLACED = (FAST, CACHED)

EVALUATIONS = pa.schema(
    [
        pa.field("arm", pa.string(), nullable=False),
        pa.field("weights", pa.string()),
        pa.field("layer", pa.int16()),
        pa.field("measure", pa.string(), nullable=False),
        pa.field("value", pa.float64()),
        pa.field("low", pa.float64()),
        pa.field("high", pa.float64()),
        pa.field("confidence", pa.float64()),
        pa.field("n", pa.int64(), nullable=False),
        pa.field("n_unit", pa.string(), nullable=False),
        pa.field("note", pa.string(), nullable=False),
    ]
)
"""A row a (arm, layer, measure); no layer: over all of them. Weights of experts that the router did not choose: stored,
live, or null where there are none."""


@dataclass(frozen=True)
class ArmResult:
    """An arm's losses and ways on S sequences.

    Attributes
    ----------
    arm : str
    scores : SequenceScores
    cluster : numpy.ndarray
        int64 [S].
    domain : numpy.ndarray
        str [S].
    ways : numpy.ndarray or None
        float64 [3, S, L, 3]: decisions, set agreement and recall, summed, by sequence, layer and way.
    """

    arm: str
    scores: SequenceScores
    cluster: NDArray[np.int64]
    domain: NDArray[np.str_]
    ways: Floats | None

    @classmethod
    def of(cls, arm: str, losses: pa.Table, ways: pa.Table) -> "ArmResult":
        """Take an arm's rows.

        Raises
        ------
        VarError
            If there are none.
        """
        if not len(losses):
            raise VarError(f"evaluation: arm {arm} was not run; run the evaluation stage again")
        scores = SequenceScores(losses["nll_sum"].to_numpy(), losses["predicted"].to_numpy())
        found = None
        if len(ways):
            columns = ("decisions", "set_agreement", "recall_at_k")
            shape = (len(losses), -1, len(Way))
            found = np.stack([ways[name].to_numpy().astype(np.float64).reshape(shape) for name in columns])
        domain = np.array(losses["domain"].to_pylist(), dtype=str)
        return cls(arm, scores, losses["cluster"].to_numpy().astype(np.int64), domain, found)

    @classmethod
    def of_run(cls, arm: str, text: Text, run: Arm) -> "ArmResult":
        """Take what has just been run."""
        ways = None if run.ways is None else np.stack([*vars(run.ways).values()]).astype(np.float64)
        return cls(arm, run.scores, text.cluster, text.domain, ways)


def read_arms(folder: Path, config: EvaluationConfig, tuned: bool = False) -> list[ArmResult]:
    """Read the files of all parts of an evaluation; the plain model comes first.

    Raises
    ------
    VarError
        If an arm is in none of them.
    """
    parts = names.parts(config, tuned)
    losses, ways = (
        pa.concat_tables([read_table(folder / f"{part}.{kind}.parquet") for part in parts])
        for kind in ("losses", "ways")
    )
    return [
        ArmResult.of(arm, losses.filter(pc.field("arm") == arm), ways.filter(pc.field("arm") == arm))
        for arm in names.arm_names(config, tuned)
    ]


@dataclass(frozen=True)
class Row:
    """A number with its interval."""

    arm: str
    layer: int | None
    measure: str
    value: float | None
    low: float | None
    high: float | None
    confidence: float | None
    n: int
    n_unit: str
    note: str = ""
    weights: Weights | None = None


class Clusters:
    """Resamples of the clusters of a text, the same for all that is computed from them."""

    def __init__(self, cluster: NDArray[np.int64], config: EvaluationConfig) -> None:
        self._cluster, self._config = cluster, config
        self._weights = bootstrap_weights(len(np.unique(cluster)), config.bootstrap, generator(config.seed, "clusters"))

    def __len__(self) -> int:
        return self._weights.shape[1]

    def sums(self, values: Floats) -> Floats:
        """Sums over the sequences of each cluster; sequences are the first axis."""
        return sums_by(self._cluster, values)

    def resampled(self, values: NDArray[Any]) -> Floats:
        """Sums of sequences' values, [S], in each resample, [B]."""
        return np.asarray(self._weights @ self.sums(np.asarray(values, dtype=np.float64)))

    def scores(self, scores: SequenceScores) -> SequenceScores:
        """Losses of clusters."""
        sums, predicted = self.sums(scores.nll_sum), self.sums(scores.predicted.astype(np.float64))
        return SequenceScores(sums, predicted.astype(np.int64))

    def ratios(self, parts: Floats, wholes: Floats) -> tuple[Floats, Floats]:
        """Ratios of sums, [M], and their intervals, [2, M] (NaN where there are none), of sequences' sums, [S, M]."""
        above, below = self.sums(parts), self.sums(wholes)
        total = below.sum(axis=0)
        ratio = np.divide(above.sum(axis=0), total, out=np.full(len(total), np.nan), where=total > 0)
        return ratio, ratio_intervals(above, below, self._weights, self._config.confidence)


def compare(result: ArmResult, plain: ArmResult, clusters: Clusters, config: EvaluationConfig) -> LossComparison:
    """Losses of an arm beside the plain model's, paired by cluster."""
    if not np.array_equal(result.cluster, plain.cluster):
        raise VarError(f"evaluation: arm {result.arm} was run on other sequences than {plain.arm}; evaluate it again")
    return compare_losses(
        clusters.scores(result.scores), clusters.scores(plain.scores),
        Margin(config.margin, config.margin_kind, config.alpha), config.confidence, resamples=config.bootstrap,
        seed=config.seed,
    )  # fmt: skip


def evaluation_rows(results: Sequence[ArmResult], config: EvaluationConfig, weights: Weights = "stored") -> list[Row]:
    """All rows of the arms, the plain model first.

    Parameters
    ----------
    results : sequence of ArmResult
    config : EvaluationConfig
    weights : {"stored", "live"}, optional
        Of the policies' decisions.
    """
    plain = results[0]
    if plain.arm != names.PLAIN:
        raise ValueError("the plain model comes first")
    clusters = Clusters(plain.cluster, config)
    rows: list[Row] = []
    for result in results:
        own = loss_rows(result, plain, clusters, config)
        if result.ways is not None:
            own += way_rows(result, clusters, config)
        rows += [replace(row, weights=None if result.ways is None else weights) for row in own]
    return rows


def loss_rows(result: ArmResult, plain: ArmResult, clusters: Clusters, config: EvaluationConfig) -> list[Row]:
    """Loss, perplexity, and both beside the plain model's."""
    found = compare(result, plain, clusters, config)

    def row(measure: str, value: float | None, ends: tuple[float | None, float | None] = (None, None)) -> Row:
        confidence = None if ends[0] is None else found.confidence
        return Row(result.arm, None, measure, value, *ends, confidence, found.sequences, "clusters", found.note)

    rows = [row("loss", found.policy_loss), row("perplexity", float(np.exp(found.policy_loss)))]
    if result.arm == plain.arm:
        return rows
    return [
        *rows,
        row("loss_difference", found.difference, (found.difference_low, found.difference_high)),
        row("relative_loss", found.relative, (found.relative_low, found.relative_high)),
        row("perplexity_ratio", found.perplexity_ratio, (found.perplexity_ratio_low, found.perplexity_ratio_high)),
        row("p_within_margin", found.p_within),
        row("p_beyond_margin", found.p_beyond),
    ]


def way_rows(result: ArmResult, clusters: Clusters, config: EvaluationConfig) -> list[Row]:
    """Shares of the ways, and agreement of each, over all layers and at each."""
    assert result.ways is not None
    layers = result.ways.shape[2]
    rows: list[Row] = []
    for layer in (None, *range(layers)):
        # [3, S, 3]: decisions, set agreement, recall; by way
        own = result.ways.sum(axis=2) if layer is None else result.ways[:, :, layer]
        rows += _share_rows(result.arm, layer, own, clusters, config)
    return rows


def _share_rows(
    arm: str, layer: int | None, own: Floats, clusters: Clusters, config: EvaluationConfig
) -> Iterator[Row]:
    decisions, all_decisions = own[0], own[0].sum(axis=1)
    replaced = decisions[:, REPLACED].sum(axis=1)
    parts: dict[str, tuple[Floats, Floats]] = {
        "fast_share": (decisions[:, FAST], all_decisions),
        "cache_share": (decisions[:, CACHED], all_decisions),
        "learned_share": (decisions[:, LEARNED], all_decisions),
        "coverage": (replaced, all_decisions),
        "cache_hit_rate": (decisions[:, CACHED], decisions[:, (CACHED, LEARNED)].sum(axis=1)),
    }
    for place, measure in ((1, "set_agreement"), (2, "recall_at_k")):
        parts[measure] = (own[place][:, REPLACED].sum(axis=1), replaced)
        parts[f"{measure}_fast"] = (own[place][:, FAST], decisions[:, FAST])
        parts[f"{measure}_cached"] = (own[place][:, CACHED], decisions[:, CACHED])
    above, below = (np.stack(columns, axis=1) for columns in zip(*parts.values(), strict=True))
    values, ends = clusters.ratios(above, below)
    counts = below.sum(axis=0)
    for number, measure in enumerate(parts):
        if not counts[number]:
            continue
        low, high = (None if np.isnan(end) else float(end) for end in ends[:, number])
        confidence = None if low is None else config.confidence
        note = "" if len(clusters) >= MINIMUM_CLUSTERS else f"{len(clusters)} clusters are too few for an interval"
        yield Row(
            arm, layer, measure, float(values[number]), low, high, confidence, int(counts[number]), "decisions", note
        )


def find(rows: Sequence[Row], arm: str, measure: str, layer: int | None = None) -> Row | None:
    """One row of an evaluation; None if there is none."""
    for row in rows:
        if (row.arm, row.measure, row.layer) == (arm, measure, layer):
            return row
    return None


def as_table(rows: Sequence[Any], schema: pa.Schema) -> pa.Table:
    """Put records into a table."""
    return pa.Table.from_pylist([{name: getattr(row, name) for name in schema.names} for row in rows], schema=schema)
