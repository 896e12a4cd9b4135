"""The stages before and within a search, as jobs do them: probes for the model of the loss, and trials."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from var_core.config.policy import EvaluationConfig, PolicyConfig
from var_core.config.tuning import TABLES_OF, TuningConfig
from var_core.errors import VarError
from var_core.evaluation.arms import run_plain, run_policy
from var_core.evaluation.stage import Sources
from var_core.evaluation.text import Text
from var_core.files import digest_of, read_json, write_json
from var_core.hypotheses.resampling import MINIMUM_CLUSTERS
from var_core.policy.make import (
    Recorded,
    calibrated_tables,
    choose_by,
    choose_rows,
    mean_entropies,
    save_calibrated,
    settings_of,
    thresholds_of,
)
from var_core.policy.store import Policy
from var_core.policy.tables import PolicyTables
from var_core.policy.ways import Way
from var_core.progress import Progress
from var_core.tuning.loss_model import LossModel, features, fit_loss_model, probe_policies
from var_core.tuning.prepared import PreparedTrace
from var_core.tuning.scores import RECALL, SAME
from var_core.tuning.trials import Evaluate, Values

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Search:
    """What a search is made from.

    Attributes
    ----------
    recorded : Recorded
        With calibrated tables.
    policy : PolicyConfig
        As configured: what the search does not change.
    config : TuningConfig
    """

    recorded: Recorded
    policy: PolicyConfig
    config: TuningConfig

    @classmethod
    def of_job(cls, inputs: Any, parameters: Any) -> "Search":
        """Read a job's inputs and parameters by their names."""
        return cls(
            Recorded.of_inputs(inputs),
            PolicyConfig.model_validate(parameters.policy),
            TuningConfig.model_validate(parameters.tuning),
        )

    @property
    def made_from(self) -> dict[str, Any]:
        """Digests of what all that comes of the search rests on."""
        own = self.recorded.provenance
        digests = {"model": own["model"]["digest"], "corpus": own["corpus"]["digest"]}
        return {**digests, "statistics": digest_of(own)}

    @property
    def sets(self) -> tuple[str, ...]:
        """Choices of tables that are tried; the classic predicate goes by token ids alone."""
        return self.config.space.needed_sets(self.policy)

    def tables(self, name: str) -> PolicyTables:
        """Calibrated tables of a choice."""
        return calibrated_tables(self.recorded, self.policy.model_copy(update={"tables": TABLES_OF[name]}))  # type: ignore[index]

    def trace(self, names: Sequence[str] | None = None) -> PreparedTrace:
        """The calibration split's decisions with tables."""
        tables = {name: self.tables(name) for name in names or self.sets}
        own = self.recorded
        return PreparedTrace(own.calibration, own.layout, tables, own.isolate_documents)

    def evaluator(self, model: LossModel) -> Evaluate:
        """Give the function that replays a policy."""
        trace = self.trace()
        own = trace.tables["token"]
        entropies = None
        if "classic" in (*self.config.space.predicate, self.policy.predicate):
            entropies = mean_entropies(self.recorded.statistics, len(own.experts), own.vocabulary)

        def evaluate(config: PolicyConfig) -> Values:
            name = set_of(config)
            chosen = choose_by(trace.tables[name], config, entropies)
            sums = trace.replay(name, chosen.usable, settings_of(config))
            difference = model.difference(sums)
            return Values(
                learned_share=sums.learned_share,
                loss_difference=difference,
                relative_loss=difference / model.plain,
                set_agreement=sums.of_replaced(SAME),
                recall_at_k=sums.of_replaced(RECALL),
                misplaced=sums.misplaced,
            )

        return evaluate


def calibrate_tables(recorded: Recorded, policy: PolicyConfig, name: str, output: Path) -> None:
    """Save the calibrated tables of one choice."""
    save_calibrated(recorded, policy.model_copy(update={"tables": TABLES_OF[name]}), output)  # type: ignore[index]


def policy_of(search: Search, config: PolicyConfig, tables: PolicyTables) -> Policy:
    """A policy that is run without being saved."""
    recorded = search.recorded
    return Policy(choose_rows(tables, config, recorded), settings_of(config), recorded.layout, {}, {})


def set_of(policy: PolicyConfig) -> str:
    """The choice of tables that a policy goes by."""
    return "token" if policy.predicate == "classic" else policy.table_set


def check_clusters(text: Text, split: str, confidence: float | None) -> None:
    """Refuse text that is too small for the intervals asked for.

    Raises
    ------
    VarError
        If its sequences are of fewer groups of documents than a bootstrap needs.
    """
    clusters = len(np.unique(text.cluster))
    if confidence is not None and clusters < MINIMUM_CLUSTERS:
        raise VarError(
            f"tuning.confidence: the {split} split has {len(text)} sequences in {clusters} clusters of documents, "
            f"intervals need {MINIMUM_CLUSTERS}; give the split more text (corpora.<name>.splits.{split}), raise "
            "tuning.max_sequences if that is what limits it, or set tuning.confidence: null for none"
        )


def fit_by_probes(search: Search, calibration: Sources, tuning: Sources, output: Path) -> None:
    """Run the model under random policies on the calibration split, and fit the model of the loss to it.

    Parameters
    ----------
    search : Search
    calibration, tuning : Sources
        The model and the splits' sequences; those of tuning are only counted.
    output : Path
        JSON file.
    """
    config = search.config
    thresholds_of(search.policy, len(search.recorded.layout))
    check_clusters(tuning.text(most=config.max_sequences), "tuning", config.confidence)
    text = calibration.text(most=config.probe_sequences)
    name = [each for each in TABLES_OF if each in search.sets][-1]
    trace, tables = search.trace((name,)), search.tables(name)
    drawn = probe_policies(trace, name, config.space, search.policy, config.probes, config.seed)
    explaining, differences, settings = [], [], []
    with Progress(text.input_ids.size * (len(drawn) + 1), "token", "probe") as progress:
        policies = [policy_of(search, each, tables) for each in drawn]
        subject = calibration.subject(policies[0], live="live" in config.space.weights)
        plain = run_plain(subject, text, progress.advance).scores
        for own, policy in zip(drawn, policies, strict=True):
            run = run_policy(subject, text, policy.tables, policy.settings, progress.advance)
            difference = (run.scores.nll_sum - plain.nll_sum).sum() / plain.predicted.sum()
            # Of the same sequences, or what is different about the others would be taken for a miss of the model.
            sums = trace.replay(name, policy.tables.usable, policy.settings).of(np.isin(trace.sequence, text.sequence))
            explaining.append(features(sums))
            differences.append(float(difference))
            live = None if run.ways is None else float(run.ways.shares[Way.LEARNED])
            shares = {"learned_share": sums.learned_share, "learned_share_live": live}
            settings.append({**shares, "policy": own.model_dump(mode="json")})
    loss = plain.nll_sum.sum() / plain.predicted.sum()
    model = fit_loss_model(np.stack(explaining), np.array(differences), float(loss))
    _LOGGER.info(
        "model of the loss: error %.5f nats a token on left-out probes, of %.5f (root mean square)",
        model.error, model.spread,
    )  # fmt: skip
    probes = [
        {**own, "explaining": list(map(float, row)), "loss_difference": difference}
        for own, row, difference in zip(settings, explaining, differences, strict=True)
    ]
    # All that can be replaced is: as bad as a sensible policy gets.
    everything = float(explaining[0] @ np.array([*model.misplaced, model.replaced]))
    reference = max(everything, model.spread)
    write_json(output, {"model": model.record(), "reference": reference, "sequences": len(text), "probes": probes})


def read_loss_model(path: Path) -> LossModel:
    """Read what :func:`fit_by_probes` has written."""
    return LossModel.of_record(read_json(path)["model"])


def evaluation_of(config: EvaluationConfig, tuning: TuningConfig) -> EvaluationConfig:
    """How text is selected and intervals are made, with what tuning says otherwise."""
    changed = {"max_sequences": tuning.max_sequences, "confidence": tuning.confidence or config.confidence}
    return config.model_copy(update=changed)
