"""The search of a finished run, as its files give it: what it is made from, and the settings that it proposed."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from var_core.config.policy import PolicyConfig
from var_core.config.tuning import TuningConfig
from var_core.errors import VarError
from var_core.files import read_json
from var_core.parquet import read_provenance, read_table
from var_core.policy.make import Recorded
from var_core.tuning.points import policy_of_row
from var_core.tuning.stage import Search, read_loss_model
from var_core.tuning.trials import SEARCH, Evaluate


@dataclass(frozen=True)
class TunedRun:
    """A finished run whose search can be made again.

    Attributes
    ----------
    results : Path
        Folder of the results.
    model, corpus : str
        Names of the run.
    """

    results: Path
    model: str
    corpus: str

    def check(self) -> None:
        """See that all files are there.

        Raises
        ------
        VarError
            If one is missing.
        """
        tuning = self.folder / "tuning"
        fixed = [tuning / "studies" / "search-0.parquet", tuning / "trials.parquet", self.loss_model]
        fixed += [self._statistics / f"{kind}.parquet" for kind in ("layer_stats", "token_stats")]
        missing = [path for path in fixed if not path.is_file()]
        if not missing:
            tables = [tuning / "tables" / f"{name}.safetensors" for name in self.search.sets]
            missing = [path for path in tables if not path.is_file()]
        if not missing and not self.search.recorded.calibration:
            missing = [self.folder / "capture" / "calibration-*.trace.parquet"]
        if missing:
            raise VarError(
                f"{missing[0]}: no such file; the benchmark of tuning needs a finished run with tuning.enabled: true; "
                "run the workflow, or name another with --results, --model and --corpus"
            )
        if not self.policies:
            raise VarError(f"{tuning / 'trials.parquet'}: no complete trial of the search; run the tuning stage again")

    @property
    def folder(self) -> Path:
        """Of the run's own results."""
        return self.results / self.model / self.corpus

    @property
    def loss_model(self) -> Path:
        """File of the model of the loss."""
        return self.folder / "tuning" / "loss_model.json"

    @property
    def _statistics(self) -> Path:
        return self.folder / "statistics" / "capture"

    @cached_property
    def search(self) -> Search:
        """What the run's search was made from, by the record of its first worker."""
        record = read_provenance(self.folder / "tuning" / "studies" / "search-0.parquet")
        recorded = Recorded(
            self._statistics,
            (),
            tuple(sorted((self.folder / "capture").glob("calibration-*.trace.parquet"))),
            self.results / "corpora" / self.corpus / "documents.parquet",
            tuple(sorted((self.folder / "tuning" / "tables").glob("*.safetensors"))),
        )
        policy, config = PolicyConfig.model_validate(record["policy"]), TuningConfig.model_validate(record["config"])
        return Search(recorded, policy, config)

    @cached_property
    def policies(self) -> tuple[PolicyConfig, ...]:
        """The settings that the search proposed, in their order."""
        rows = read_table(self.folder / "tuning" / "trials.parquet")
        rows = rows.filter((pc.field("study") == SEARCH) & (pc.field("state") == "complete")).sort_by("number")
        return tuple(policy_of_row(row, self.search.policy) for row in rows.to_pylist())

    @property
    def decisions(self) -> int:
        """Recorded decisions of the calibration split: one a token and layer."""
        return decisions_of(self.search.recorded.calibration)

    @property
    def reference(self) -> float:
        """Loss difference of the reference point of the hypervolume."""
        return float(read_json(self.loss_model)["reference"])

    def evaluator(self, traces: Sequence[Path] | None = None) -> Evaluate:
        """Give a function that replays a policy, all its caches cold; on other traces than the run's, if given."""
        search = self.search
        if traces is not None:
            search = replace(search, recorded=replace(search.recorded, calibration=tuple(traces)))
        return search.evaluator(read_loss_model(self.loss_model))

    def spread(self, number: int) -> tuple[PolicyConfig, ...]:
        """So many of the settings, or all if there are fewer, evenly from the first to the last."""
        step = max(len(self.policies) / number, 1.0)
        return tuple(self.policies[int(place * step)] for place in range(min(number, len(self.policies))))

    def warm_up(self) -> None:
        """Replay a policy of every kind, so that all there is to compile has been; what it remembers is thrown away."""
        kinds = {(each.predicate, each.tables, bool(each.cache.capacity)): each for each in self.policies}
        evaluate = self.evaluator()
        for policy in kinds.values():
            evaluate(policy)

    def about(self) -> dict[str, Any]:
        """What it is, for the report."""
        return {
            "model": self.model,
            "corpus": self.corpus,
            "decisions": self.decisions,
            "layers": len(self.search.recorded.layout),
            "sampler": self.search.config.sampler,
            "proposed": len(self.policies),
        }


def decisions_of(traces: Sequence[Path]) -> int:
    """Decisions that are recorded in traces."""
    return sum(int(pq.read_metadata(path).num_rows) for path in traces)
