"""Running arms of an evaluation, as a job does."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import TypeAdapter

from var_core.config.models import ModelConfig, PretrainedModel
from var_core.config.policy import EvaluationConfig, LayerThresholds, PolicyConfig
from var_core.errors import VarError
from var_core.evaluation import names
from var_core.evaluation.arms import (
    Arm,
    Subject,
    all_tokens,
    global_table,
    random_experts,
    run_oracle,
    run_plain,
    run_policy,
)
from var_core.evaluation.shadow_trace import ShadowTrace
from var_core.evaluation.text import Selection, Text, select_text
from var_core.files import file_digest
from var_core.models.folder import read_record
from var_core.models.loading import load_causal_model
from var_core.parquet import read_provenance, write_table
from var_core.policy.attach import find_weightings
from var_core.policy.make import Recorded, calibrated_tables, choose_rows, chosen_config, settings_of
from var_core.policy.replay import SequenceSums
from var_core.policy.runtime import Observer
from var_core.policy.settings import PolicySettings
from var_core.policy.store import RECORD, Policy, load_policy
from var_core.policy.tables import PolicyTables
from var_core.policy.ways import Way
from var_core.progress import Progress
from var_core.routing.sites import find_sites

LOSSES = pa.schema(
    [
        pa.field("arm", pa.string(), nullable=False),
        pa.field("sequence", pa.int32(), nullable=False),
        pa.field("cluster", pa.int32(), nullable=False),
        pa.field("domain", pa.string(), nullable=False),
        pa.field("predicted", pa.int64(), nullable=False),
        pa.field("nll_sum", pa.float64(), nullable=False),
    ]
)
"""A row an (arm, sequence): its number in the split, cluster and domain; predicted tokens and their loss in nats."""

WAYS = pa.schema(
    [
        pa.field("arm", pa.string(), nullable=False),
        pa.field("sequence", pa.int32(), nullable=False),
        pa.field("layer", pa.int16(), nullable=False),
        pa.field("way", pa.string(), nullable=False),
        pa.field("decisions", pa.int64(), nullable=False),
        pa.field("set_agreement", pa.float64(), nullable=False),
        pa.field("recall_at_k", pa.float64(), nullable=False),
    ]
)
"""A row an (arm, sequence, layer, way): decisions, and their agreement with the router, summed."""


@dataclass(frozen=True)
class Sources:
    """What an evaluation is made from.

    Attributes
    ----------
    model_record : Path
        The model's ``model.json``.
    model_config : ModelConfig
    device : str
    shards : tuple of Path
        Held-out sequences.
    recorded : Recorded
        What the policy was made from.
    policy : Path or None
        The policy's folder; None where none is made yet.
    policy_config : PolicyConfig
        What it was made with.
    config : EvaluationConfig
    configured : PolicyConfig or None
        What is configured, where a search has chosen something else.
    """

    model_record: Path
    model_config: ModelConfig
    device: str
    shards: tuple[Path, ...]
    recorded: Recorded
    policy: Path | None
    policy_config: PolicyConfig
    config: EvaluationConfig
    configured: PolicyConfig | None = None

    @classmethod
    def of_job(cls, inputs: Any, parameters: Any) -> "Sources":
        """Read a job's inputs and parameters by their names."""
        configured = PolicyConfig.model_validate(parameters.policy)
        chosen = inputs.get("chosen")
        return cls(
            Path(inputs.model),
            TypeAdapter(ModelConfig).validate_python(parameters.settings["model"]),
            parameters.settings["device"],
            tuple(map(Path, inputs.shards)),
            Recorded.of_inputs(inputs),
            Path(inputs.policy[0]).parent if inputs.get("policy") else None,
            chosen_config(Path(chosen)) if chosen else configured,
            EvaluationConfig.model_validate(parameters.config),
            configured if chosen else None,
        )

    def text(self, domain: str | None = None, most: int | None = None) -> Text:
        """The sequences that all arms run on; or those of one domain."""
        record, own = read_provenance(self.shards[0]), self.config
        selection = Selection(most or own.max_sequences, own.sequences_per_cluster, own.seed, domain, own.stride)
        return select_text(
            self.shards, self.recorded.documents, selection, bool(record["isolate_documents"]), own.batch_sequences
        )

    def on(self, shards: Sequence[str]) -> "Sources":
        """The same with sequences of other shards."""
        return replace(self, shards=tuple(map(Path, shards)))

    def load_policy(self) -> Policy:
        """The policy, if it is for this model and tokenizer."""
        assert self.policy is not None
        tokenizer = read_provenance(self.shards[0])["tokenizer"]
        return load_policy(self.policy, {"model": read_record(self.model_record).digest, "tokenizer": tokenizer})

    def subject(self, policy: Policy, live: bool = False) -> Subject:
        """The model with its layers; `live`: with what live weights need, whatever the policy's are."""
        loaded = load_causal_model(self.model_record, self.model_config, device=self.device)
        config = self.model_config
        sites = find_sites(loaded.model, config.exclude_sites if isinstance(config, PretrainedModel) else ())
        if len(sites) != len(policy.layout):
            raise VarError(
                f"the policy is for {len(policy.layout)} MoE layers, the model has {len(sites)}; make the policy again"
            )
        live = live or policy.settings.weights == "live"
        weightings = find_weightings(loaded.model, sites, policy) if live else {}
        return Subject(loaded.model, sites, policy.layout, weightings)


def evaluate_part(sources: Sources, part: str, arms: Sequence[str], output: Path, code: str) -> None:
    """Run some arms and write their losses and ways; of the policy itself, the router's decisions in its shadow too.

    Parameters
    ----------
    sources : Sources
    part : str
        Name of the files.
    arms : sequence of str
        Of :func:`var_core.evaluation.names.arm_names`.
    output : Path
        Folder for ``{part}.losses.parquet``, ``{part}.ways.parquet``, and for the policy ``policy.trace.parquet``.
    code : str
        Digest of the stage's code.

    Raises
    ------
    VarError
        If the policy is for another model, or the model's decisions cannot be replaced.
    """
    policy = sources.load_policy()
    assert sources.policy is not None
    policy_record = sources.policy / RECORD
    text, subject = sources.text(), sources.subject(policy)
    provenance = {
        "stage": "evaluation",
        "arms": list(arms),
        "policy": policy.made_from,
        "policy_record": file_digest(policy_record),
        "text": {key: read_provenance(sources.shards[0])[key] for key in ("run", "split", "corpus", "tokenizer")},
        "sequences": len(text),
        "windows": 1 if sources.config.stride is None else text.input_ids.shape[1] // sources.config.stride,
        "sequence_length": text.input_ids.shape[1],
        "config": sources.config.model_dump(mode="json"),
        "code": code,
    }
    losses, ways = [], []
    with Progress(text.input_ids.size * len(arms), "token", f"evaluate {part}") as progress:
        for arm in arms:
            with ExitStack() as stack:
                observers: list[Observer] = []
                if arm == names.POLICY:
                    trace = ShadowTrace(output / "policy.trace.parquet", text, policy.layout, provenance)
                    observers.append(stack.enter_context(trace))
                result = _run(arm, sources, policy, subject, text, progress, observers)
            losses.append(losses_table(arm, text, result))
            ways.append(ways_table(arm, text.sequence, result))
    write_table(output / f"{part}.losses.parquet", pa.concat_tables(losses), provenance)
    write_table(output / f"{part}.ways.parquet", pa.concat_tables(ways), provenance)


def _run(
    arm: str,
    sources: Sources,
    policy: Policy,
    subject: Subject,
    text: Text,
    progress: Progress,
    observers: Sequence[Observer],
) -> Arm:
    if arm == names.PLAIN:
        return run_plain(subject, text, progress.advance)
    if arm == names.ORACLE:
        return run_oracle(subject, text, progress.advance)
    tables, settings = arm_policy(arm, policy, sources)
    return run_policy(subject, text, tables, settings, progress.advance, observers)


def arm_policy(arm: str, policy: Policy, sources: Sources) -> tuple[PolicyTables, PolicySettings]:
    """Tables and settings of an arm.

    Raises
    ------
    VarError
        If there is no such arm.
    """
    tables, settings, config = policy.tables, policy.settings, sources.policy_config
    configured = sources.configured or config
    bare = replace(settings, cache=None, budget=None)
    if arm == names.POLICY:
        return tables, settings
    if arm == names.TABLES_ONLY:
        return tables, replace(settings, cache=None)
    if arm == names.CLASSIC:
        classic = configured.model_copy(update={"predicate": "classic", "by_layer": LayerThresholds()})
        return choose_rows(tables, classic, sources.recorded), settings_of(classic)
    if arm == names.CONFIGURED:
        own = calibrated_tables(sources.recorded, configured)
        return choose_rows(own, configured, sources.recorded), settings_of(configured)
    if arm.startswith(names.THRESHOLD):
        threshold = float(arm.removeprefix(names.THRESHOLD))
        if config.predicate != "agreement":
            tables = calibrated_tables(sources.recorded, config)
        changed = config.model_copy(
            update={"predicate": "agreement", "agreement_threshold": threshold, "by_layer": LayerThresholds()}
        )
        return choose_rows(tables, changed, sources.recorded), settings
    kind, same = arm.removesuffix(names.SAME_COVERAGE), arm.endswith(names.SAME_COVERAGE)
    if kind not in (names.TOKEN_TABLE, names.GLOBAL_TABLE, names.RANDOM_EXPERTS):
        raise VarError(f"evaluation: there is no arm {arm}; {', '.join(names.MEANINGS)} and {names.THRESHOLD}… are")
    chosen = tables if same else all_tokens(tables)
    if kind == names.GLOBAL_TABLE:
        return global_table(chosen), bare
    if kind == names.RANDOM_EXPERTS:
        return random_experts(chosen, policy.layout, sources.config.seed), bare
    return chosen, bare


def losses_table(arm: str, text: Text, result: Arm) -> pa.Table:
    """Rows of :data:`LOSSES` of an arm."""
    columns = {
        "arm": [arm] * len(text),
        "sequence": text.sequence,
        "cluster": text.cluster,
        "domain": text.domain,
        "predicted": result.scores.predicted,
        "nll_sum": result.scores.nll_sum,
    }
    return pa.table(columns, schema=LOSSES)


def ways_table(arm: str, sequence: NDArray[np.int64], result: Arm) -> pa.Table:
    """Rows of :data:`WAYS` of an arm; none where no policy decided."""
    if result.ways is None:
        return WAYS.empty_table()
    columns = SequenceSums(sequence, **vars(result.ways)).columns()
    names_of_ways = np.array([way.name.lower() for way in Way])
    columns |= {"arm": [arm] * len(columns["way"]), "way": names_of_ways[columns["way"]]}
    return pa.table(columns, schema=WAYS)
