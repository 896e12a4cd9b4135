"""What a policy's tables come to on the held-out trace: gains at equal coverage, and agreement by token frequency."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from var_core.config.policy import EvaluationConfig, PolicyConfig
from var_core.evaluation.results import Clusters
from var_core.evaluation.text import group_numbers
from var_core.hypotheses.results import finite
from var_core.parquet import read_table
from var_core.policy.compare import gain_at_equal_coverage, promises
from var_core.policy.make import Recorded, calibrated_tables
from var_core.policy.recorded import read_decisions
from var_core.policy.tables import PolicyTables

GAINS = pa.schema(
    [
        pa.field("layer", pa.int16(), nullable=False),
        pa.field("measure", pa.string(), nullable=False),
        pa.field("coverage", pa.float64(), nullable=False),
        pa.field("token_tables", pa.float64(), nullable=False),
        pa.field("all_tables", pa.float64(), nullable=False),
        pa.field("gain", pa.float64(), nullable=False),
        pa.field("low", pa.float64()),
        pa.field("high", pa.float64()),
    ]
)
"""A row a (layer, measure, coverage): held-out agreement of tables by token id alone, and of all tables."""

FREQUENCIES = pa.schema(
    [
        pa.field("arm", pa.string(), nullable=False),
        pa.field("layer", pa.int16()),
        pa.field("from_count", pa.int64(), nullable=False),
        pa.field("to_count", pa.int64()),
        pa.field("decisions", pa.int64(), nullable=False),
        pa.field("set_agreement", pa.float64(), nullable=False),
        pa.field("low", pa.float64()),
        pa.field("high", pa.float64()),
    ]
)
"""A row a (arm, layer, range of occurrences of the token in the capture split)."""

_EDGES = np.array([0, 1, 3, 10, 32, 100, 316, 1000, 3162, 10_000, 31_623, 100_000], np.int64)
"""First occurrences of each range; the last has no end."""


@dataclass(frozen=True)
class HeldOut:
    """The held-out trace, and the clusters of its sequences.

    Attributes
    ----------
    traces : tuple of Path
    cluster : numpy.ndarray
        int64 [S]: of each sequence, in ascending order, the group of documents that most of its tokens are of.
    """

    traces: tuple[Path, ...]
    cluster: NDArray[np.int64]

    @classmethod
    def of(cls, traces: Sequence[Path], documents: Path) -> "HeldOut":
        """Find the clusters."""
        group = group_numbers(documents)
        parts = [read_table(path, ["sequence", "document"]) for path in traces]
        sequence, document = (
            np.concatenate([part[name].to_numpy() for part in parts]).astype(np.int64)
            for name in ("sequence", "document")
        )
        width = int(group.max()) + 1
        cells, count = np.unique(sequence * width + group[document], return_counts=True)
        largest = np.lexsort((-count, cells // width))
        first = np.unique((cells // width)[largest], return_index=True)[1]
        return cls(tuple(traces), (cells % width)[largest][first])


def gain_rows(
    best: PolicyTables, held_out: HeldOut, recorded: Recorded, policy: PolicyConfig, config: EvaluationConfig
) -> list[dict[str, Any]]:
    """Gains of all tables over those by token id alone; none where there are no others."""
    if "pair" not in policy.tables:
        return []
    baseline = calibrated_tables(recorded, policy.model_copy(update={"tables": ("token",)}))
    found = gain_at_equal_coverage(
        baseline, best, recorded.layout, held_out.traces, held_out.cluster,
        isolate_documents=recorded.isolate_documents, confidence=config.confidence, resamples=config.bootstrap,
        seed=config.seed,
    )  # fmt: skip
    return [
        {
            "layer": each.layer,
            "measure": each.measure,
            "coverage": float(each.coverage[place]),
            "token_tables": float(each.baseline[place]),
            "all_tables": float(each.best[place]),
            "gain": float(each.gain[place]),
            "low": finite(each.low[place]),
            "high": finite(each.high[place]),
        }
        for each in found
        for place in range(len(each.coverage))
    ]


def frequency_rows(
    tables: Mapping[str, PolicyTables], held_out: HeldOut, recorded: Recorded, config: EvaluationConfig
) -> list[dict[str, Any]]:
    """Set agreement with the router's decisions by how often a token occurred in the capture split.

    Parameters
    ----------
    tables : mapping of str to PolicyTables
        By arm; each decision is that of its row, whatever its agreement.
    held_out, recorded, config
    """
    layout, vocabulary = recorded.layout, int(recorded.provenance["vocabulary"])
    counts = _occurrences(recorded, vocabulary)
    bins = len(_EDGES)
    clusters, sums = Clusters(held_out.cluster, config), {}
    for layer, shape in enumerate(layout.layers):
        decisions = read_decisions(held_out.traces, layer, shape.experts, shape.top_k, recorded.isolate_documents)
        sequences, place = np.unique(decisions.sequence, return_inverse=True)
        cell = place * bins + np.searchsorted(_EDGES, counts[decisions.token_id], side="right") - 1
        shape_of = (len(sequences), bins)
        n = np.bincount(cell, minlength=len(sequences) * bins).reshape(shape_of).astype(np.float64)
        for arm, own in tables.items():
            score, _ = promises(own, layer, layout, decisions, "set_agreement")
            agreed = np.bincount(cell, score, minlength=len(sequences) * bins).reshape(shape_of)
            sums[arm, layer] = (agreed, n)
    rows = []
    for arm in tables:
        layers = [sums[arm, layer] for layer in range(len(layout))]
        agreed, n = (np.sum(parts, axis=0) for parts in zip(*layers, strict=True))
        rows += _frequency_rows(arm, None, agreed, n, clusters)
        for layer, (part, counted) in enumerate(layers):
            rows += _frequency_rows(arm, layer, part, counted, clusters)
    return rows


def _occurrences(recorded: Recorded, vocabulary: int) -> NDArray[np.int64]:
    """Occurrences of each token id in the capture split."""
    table = read_table(recorded.statistics / "token_stats.parquet", ["layer", "token_id", "n"])
    first = table["layer"].to_numpy() == 0
    found = np.bincount(table["token_id"].to_numpy()[first], table["n"].to_numpy()[first], minlength=vocabulary)
    return found.astype(np.int64)


def _frequency_rows(
    arm: str, layer: int | None, agreed: NDArray[Any], n: NDArray[Any], clusters: Clusters
) -> list[dict[str, Any]]:
    values, ends = clusters.ratios(agreed, n)
    return [
        {
            "arm": arm,
            "layer": layer,
            "from_count": int(_EDGES[place]),
            "to_count": int(_EDGES[place + 1] - 1) if place + 1 < len(_EDGES) else None,
            "decisions": int(n[:, place].sum()),
            "set_agreement": float(values[place]),
            "low": finite(ends[0, place]),
            "high": finite(ends[1, place]),
        }
        for place in range(len(_EDGES))
        if n[:, place].sum()
    ]
