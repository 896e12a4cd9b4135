"""The whole configuration: runs, and the models and corpora that they name."""

import difflib
import re
from collections.abc import Mapping
from typing import Any

from pydantic import Field, ValidationError, model_validator

from var_core.config.base import Block
from var_core.config.capture import CaptureConfig
from var_core.config.corpus import CorpusConfig, SequencesConfig
from var_core.config.figures import FiguresConfig
from var_core.config.hypotheses import HypothesesConfig
from var_core.config.models import DemoModel, ModelConfig
from var_core.errors import VarError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
RESERVED_NAMES = frozenset({"benchmarks", "corpora", "logs", "models", "report"})
"""Folders of ``results/`` that a model cannot be called."""


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
    models: dict[str, ModelConfig] = Field(min_length=1)
    """models by name"""
    corpora: dict[str, CorpusConfig] = Field(min_length=1)
    """corpora by name"""
    sequences: SequencesConfig = SequencesConfig()
    """how documents are packed into sequences"""
    capture: CaptureConfig = CaptureConfig()
    """how routing decisions are captured"""
    hypotheses: HypothesesConfig = HypothesesConfig()
    """how the hypotheses are tested"""
    figures: FiguresConfig = FiguresConfig()
    """how figures are drawn"""

    @model_validator(mode="after")
    def _names_are_usable(self) -> "Config":
        for kind, names in (("models", self.models), ("corpora", self.corpora)):
            for name in names:
                if not _NAME.fullmatch(name):
                    raise ValueError(f"{kind}.{name}: a name is letters, digits, '.', '_' and '-' (it names a folder)")
        for name in sorted(RESERVED_NAMES & self.models.keys()):
            raise ValueError(f"models.{name}: this name is a folder of results/; choose another")
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
                if not self.corpora[model.corpus].splits.train:
                    raise ValueError(f"corpora.{model.corpus}.splits.train: is 0, but models.{name} trains on it")
        return self


def _require_defined(key: str, name: str, known: Mapping[str, Any]) -> None:
    if name not in known:
        raise ValueError(f"{key}: {name!r} is not defined; defined are {', '.join(sorted(known))}")


def parse_config(values: Mapping[str, Any], source: str) -> Config:
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
        On the first fault, as one line that names file and key; further faults are counted.
    """
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        faults = error.errors(include_url=False)
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise VarError(f"{source}: {_describe(faults[0])}{more}") from None


def _describe(fault: Any) -> str:
    """Put one pydantic fault into words: the key, what is wrong, and what to do."""
    location = [str(part) for part in fault["loc"]]
    # A discriminated union puts its tag into the location; the user's file has no such level.
    location = [part for i, part in enumerate(location) if not (i == 2 and location[0] in ("models", "corpora"))]
    key = ".".join(location)
    if fault["type"] == "extra_forbidden":
        guess = difflib.get_close_matches(location[-1], _known_keys(Config), n=1)
        return f"{key}: unknown key" + (f"; did you mean {guess[0]}?" if guess else "")
    if fault["type"] == "missing":
        return f"{key}: is missing"
    if fault["type"] == "value_error":
        message = str(fault["ctx"]["error"])
        return f"{key}: {message}" if key else message
    return f"{key}: {fault['msg'][0].lower()}{fault['msg'][1:]}, not {fault['input']!r}"


def _known_keys(block: type[Block]) -> list[str]:
    """All key names anywhere in the configuration."""
    schema = block.model_json_schema()
    keys = set(schema["properties"])
    for definition in schema["$defs"].values():
        keys.update(definition.get("properties", ()))
    return sorted(keys)
