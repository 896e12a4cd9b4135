"""What is left of a token table's agreement when it comes from another domain than the text."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from var_core.config.hypotheses import AgreementMeasure, HypothesesConfig
from var_core.hypotheses.agreement import MEASURES, Coverage, Halving, fit_table, measure_coverage, scores
from var_core.hypotheses.data import Heldout, Layer, RunData
from var_core.hypotheses.results import Transfer, finite

Key = tuple[AgreementMeasure, str, str]
"""Measure, source domain, target domain."""


@dataclass(frozen=True)
class Transfers:
    """Sums for every measure, source and target; adding two pools their layers."""

    agreed: dict[Key, float]
    n: dict[Key, int]
    coverage: dict[Key, Coverage]

    def __add__(self, other: "Transfers") -> "Transfers":
        return Transfers(
            {key: self.agreed[key] + other.agreed[key] for key in self.agreed},
            {key: self.n[key] + other.n[key] for key in self.n},
            {key: self.coverage[key] + other.coverage[key] for key in self.coverage},
        )

    def rows(self, layer: int | None, target_agreement: float) -> list[Transfer]:
        """Return a row for each measure, source and target."""
        rows = []
        for key, coverage in self.coverage.items():
            measure, source, target = key
            cut = coverage.cut(target_agreement)
            covered, agreed, _ = coverage.covered(cut)
            rows.append(
                Transfer(
                    measure=measure,
                    layer=layer,
                    source=source,
                    target=target,
                    agreement=self.agreed[key] / self.n[key] if self.n[key] else None,
                    decisions=self.n[key],
                    coverage=finite(coverage.share(cut)),
                    covered_agreement=float(agreed.sum() / covered.sum()) if covered.sum() else None,
                )
            )
        return rows


def measure_transfers(
    data: RunData,
    heldout: Heldout,
    layer: Layer,
    halving: Halving,
    config: HypothesesConfig,
    measures: Sequence[AgreementMeasure] = MEASURES,
) -> Transfers:
    """Score the table of each domain on the held-out decisions of each domain.

    The cut of a source is calibrated on the source's own calibration documents, as someone would who has only that
    domain, and tested on the target's test documents.
    """
    fold = halving.fold[halving.place(heldout.document)]
    together = np.zeros(len(fold), dtype=np.int64)
    result = Transfers({}, {}, {})
    for source_index, source in enumerate(data.domains):
        counts = data.expert_counts(layer, domains=[source])
        score = scores(heldout, fit_table(counts, layer.top_k, config.table_minimum_count), layer.top_k)
        calibrated = np.where(heldout.domain == source_index, fold, -1)
        for target_index, target in enumerate(data.domains):
            there = heldout.domain == target_index
            for measure in measures:
                key = (measure, source, target)
                result.agreed[key] = float(score[measure][there].sum())
                result.n[key] = int(there.sum())
                result.coverage[key] = measure_coverage(
                    score[measure], heldout.type_index, data.types, calibrated, together, 1, there & (fold < 0)
                )
    return result
