"""The whole configuration: runs, and the models and corpora that they name."""

import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError, model_validator

from var_core.config.base import Block
from var_core.config.capture import CaptureConfig
from var_core.config.corpus import AnyCorpusConfig, SequencesConfig, TraceCorpus
from var_core.config.faults import one_line
from var_core.config.figures import FiguresConfig
from var_core.config.hypotheses import HypothesesConfig
from var_core.config.models import AnyModelConfig, DemoModel, TraceModel
from var_core.config.policy import CertificateConfig, EvaluationConfig, PolicyConfig
from var_core.config.statistics import StatisticsConfig
from var_core.config.systems import SystemsConfig
from var_core.config.tuning import TABLES_OF, TuningConfig
from var_core.errors import VarError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
RESERVED_NAMES = frozenset({"benchmarks", "corpora", "logs", "models", "report", "var.duckdb"})
"""What ``results/`` holds beside the folders of the models, so that no model can be called so."""


class Run(Block):
    """One model on one corpus."""

    model: str
    """a name under ``models``"""
    corpus: str
    """a name under ``corpora``"""


class Config(Block):
    """Everything that a workflow run is told."""

    runs: tuple[Run, ...] = Field(min_length=1)
    """what is to be answered: each model and corpus named here is one run"""
    models: dict[str, AnyModelConfig] = Field(min_length=1)
    """models by name"""
    corpora: dict[str, AnyCorpusConfig] = Field(min_length=1)
    """corpora by name"""
    sequences: SequencesConfig = SequencesConfig()
    """how documents are packed into sequences"""
    capture: CaptureConfig = CaptureConfig()
    """how routing decisions are captured"""
    statistics: StatisticsConfig = StatisticsConfig()
    """what is measured beside the counts"""
    hypotheses: HypothesesConfig = HypothesesConfig()
    """how the hypotheses are tested"""
    policy: PolicyConfig = PolicyConfig()
    """how routing is decided without the router"""
    tuning: TuningConfig = TuningConfig()
    """the search for a policy's settings; the one it chooses is evaluated and certified in place of `policy`'s"""
    evaluation: EvaluationConfig = EvaluationConfig()
    """how policies are compared with the plain model on held-out text"""
    certificate: CertificateConfig = CertificateConfig()
    """what is promised of a policy"""
    systems: SystemsConfig = SystemsConfig()
    """what predictable routing is worth, on which hardware"""
    figures: FiguresConfig = FiguresConfig()
    """how figures are drawn"""

    @model_validator(mode="after")
    def _names_are_usable(self) -> "Config":
        for kind, names in (("models", self.models), ("corpora", self.corpora)):
            for name in names:
                if not _NAME.fullmatch(name):
                    raise ValueError(f"{kind}.{name}: a name is letters, digits, '.', '_' and '-' (it names a folder)")
        for name in sorted(RESERVED_NAMES & self.models.keys()):
            raise ValueError(f"models.{name}: results/{name} has another use; choose another name")
        return self

    @model_validator(mode="after")
    def _names_are_defined(self) -> "Config":
        for index, run in enumerate(self.runs):
            _require_defined(f"runs.{index}.model", run.model, self.models)
            _require_defined(f"runs.{index}.corpus", run.corpus, self.corpora)
        if len(set(self.runs)) < len(self.runs):
            raise ValueError("runs: the same model and corpus are named twice")
        for name, model in self.models.items():
            if isinstance(model, DemoModel):
                _require_defined(f"models.{name}.corpus", model.corpus, self.corpora)
                corpus = self.corpora[model.corpus]
                if isinstance(corpus, TraceCorpus):
                    raise ValueError(
                        f"models.{name}.corpus: {model.corpus} is recorded routing, without text to train on"
                    )
                if not corpus.splits.train:
                    raise ValueError(f"corpora.{model.corpus}.splits.train: is 0, but models.{name} trains on it")
        return self

    @model_validator(mode="after")
    def _recorded_routing_is_paired(self) -> "Config":
        for index, run in enumerate(self.runs):
            recorded = {
                f"models.{run.model}": isinstance(self.models[run.model], TraceModel),
                f"corpora.{run.corpus}": isinstance(self.corpora[run.corpus], TraceCorpus),
            }
            if len(set(recorded.values())) > 1:
                trace, other = sorted(recorded, key=recorded.__getitem__, reverse=True)
                raise ValueError(
                    f"runs.{index}: {trace} has source trace, but {other} has not; recorded routing needs both"
                )
        return self

    @model_validator(mode="after")
    def _tables_have_their_trace(self) -> "Config":
        asked = {"policy.tables": self.policy.tables}
        if self.tuning.enabled:
            sets = self.tuning.space.table_sets(self.policy)
            asked["tuning.space.tables"] = tuple(name for each in sets for name in TABLES_OF[each])
        for key, tables in asked.items():
            by_order = [table for table in tables if table != "token"]
            if by_order and "capture" not in self.capture.trace:
                raise ValueError(
                    f"{key}: {by_order[0]} is fitted to decisions in their order; add capture to capture.trace, or "
                    "take token alone"
                )
        return self

    @model_validator(mode="after")
    def _something_is_searched(self) -> "Config":
        if self.policy.enabled and self.tuning.enabled and not self.tuning.space.searched(self.policy):
            raise ValueError(
                "tuning.space: there is nothing to search, every key has one value; give one several, or set "
                "tuning.enabled: false"
            )
        return self

    @model_validator(mode="after")
    def _sequences_fit_the_demo_model(self) -> "Config":
        for name in dict.fromkeys(run.model for run in self.runs):
            model = self.models[name]
            if isinstance(model, DemoModel) and self.sequences.length > model.max_position:
                raise ValueError(
                    f"sequences.length: {self.sequences.length} is over models.{name}.max_position "
                    f"({model.max_position}); make one fit the other"
                )
        return self


def _require_defined(key: str, name: str, known: Mapping[str, Any]) -> None:
    if name not in known:
        raise ValueError(f"{key}: {name!r} is not defined; defined are {', '.join(sorted(known))}")


def parse_config(values: Any, source: str) -> Config:
    """Validate a configuration.

    Parameters
    ----------
    values : mapping
        What the YAML file (and ``--config`` on the command line) say.
    source : str
        The file's name, for messages.

    Raises
    ------
    VarError
        On the fault that explains most, as one line that names file and key; further faults are counted.
    """
    if not isinstance(values, Mapping):
        raise VarError(f"{source}: must hold keys with values (runs, models, corpora, …)")
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise VarError(f"{source}: {one_line(error.errors(include_url=False), Config)}") from None


def load_config(path: Path) -> Config:
    """Read and validate a configuration file without Snakemake.

    Parameters
    ----------
    path : Path
        A YAML file that is complete by itself, for example ``config/config.yaml`` or a preset.

    Raises
    ------
    VarError
        If the file is missing, is not UTF-8 or not YAML, gives a key twice, or is not a valid configuration.
    """
    return parse_config(read_yaml(path), str(path))


def read_yaml(path: Path) -> Any:
    """Read a configuration file that need not be complete; an empty one gives no keys.

    Raises
    ------
    VarError
        If the file is missing, is not UTF-8 or not YAML, or gives a key twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise VarError(
            f"{path}: no such file; config/config.yaml and config/presets/ are there to start from"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise VarError(f"{path}: not readable as UTF-8 text ({error})") from None
    try:
        values = yaml.load(text, Loader=_UniqueKeyLoader)
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise VarError(f"{path}{line}: not valid YAML ({error.problem or error.context})") from None
    except yaml.YAMLError as error:
        raise VarError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None
    return {} if values is None else values


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML's safe loader, but a key given twice is a fault and not an override."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key.value} is given twice", key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)
