"""Making a policy from what a run has counted and recorded."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from pydantic import ValidationError

from var_core.config.policy import PolicyConfig
from var_core.errors import VarError
from var_core.files import digest_of, file_digest, read_json
from var_core.parquet import read_provenance, read_table
from var_core.policy.cache import CacheLimits
from var_core.policy.calibration import calibrate
from var_core.policy.fit import Pairs, fit_tables, take_agreeing, take_classic, take_listed
from var_core.policy.settings import BudgetSettings, CacheSettings, PolicySettings
from var_core.policy.store import Policy, load_tables, save_tables
from var_core.policy.tables import PolicyTables
from var_core.policy.text import TEXT, mark_text, write_marks
from var_core.routing.batch import LayerRouter, RouterLayout

_MADE_FROM, _TUNED_ON = ("capture", "calibration"), ("tuning",)
_SUFFIX = ".safetensors"


@dataclass(frozen=True)
class Recorded:
    """What a run has counted and recorded.

    Attributes
    ----------
    statistics : Path
        Folder of the capture split's merged statistics.
    fitting, calibration : tuple of Path
        Traces of the capture split, empty where it keeps none, and of the calibration split.
    documents : Path
        ``documents.parquet`` of the corpus.
    calibrated : tuple of Path
        Files of tables that are calibrated already, as :func:`save_calibrated` names them.
    """

    statistics: Path
    fitting: tuple[Path, ...]
    calibration: tuple[Path, ...]
    documents: Path
    calibrated: tuple[Path, ...] = ()

    @classmethod
    def of_inputs(cls, inputs: Any) -> "Recorded":
        """Read a job's inputs by their names."""
        return cls(
            Path(inputs.statistics[0]).parent,
            tuple(map(Path, inputs.fitting)),
            tuple(map(Path, inputs.calibration)),
            Path(inputs.documents),
            tuple(map(Path, inputs.get("calibrated", []))),
        )

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """What the statistics were made from."""
        return read_provenance(self.statistics / "layer_stats.parquet")

    @property
    def layout(self) -> RouterLayout:
        """The shape of the decisions."""
        return RouterLayout(
            tuple(LayerRouter(site["experts"], site["top_k"], site["scoring"]) for site in self.provenance["sites"])
        )

    @property
    def isolate_documents(self) -> bool:
        """Whether the documents of a sequence know nothing of each other."""
        return bool(self.provenance["config"]["isolate_documents"])


def make_policy(
    recorded: Recorded, config: PolicyConfig, tokenizer: str, output: Path, code: str, tuned: Path | None = None
) -> Policy:
    """Fit, calibrate and save a policy.

    Parameters
    ----------
    recorded : Recorded
    config : PolicyConfig
    tokenizer : str
        Digest of the tokenizer.
    output : Path
        Folder to save it to.
    code : str
        Digest of the stage's code.
    tuned : Path, optional
        File of settings that a search has chosen, in place of those of `config`; see :func:`chosen_config`.

    Raises
    ------
    VarError
        If what was recorded does not belong together, or does not suffice for the tables asked for.
    """
    provenance = recorded.provenance
    _check_together(recorded)
    if tuned is not None:
        config = chosen_config(tuned)
    tables = calibrated_tables(recorded, config)
    read = _MADE_FROM if tuned is None else (*_MADE_FROM, *_TUNED_ON)
    marks = mark_text(recorded.documents, provenance["corpus"]["name"], read)
    output.mkdir(parents=True, exist_ok=True)
    write_marks(output / TEXT, marks)
    policy = Policy(
        choose_rows(tables, config, recorded),
        settings_of(config),
        recorded.layout,
        {
            **config.model_dump(mode="json", exclude={"cache", "budget", "weights", "audit", "enabled"}),
            "tuned": tuned is not None,
            "isolate_documents": recorded.isolate_documents,
            "run": provenance["run"],
            "code": code,
        },
        {
            "model": provenance["model"]["digest"],
            "tokenizer": tokenizer,
            "corpus": provenance["corpus"]["digest"],
            "statistics": digest_of(provenance),
            "fitting": digest_of([read_provenance(path)["content"] for path in recorded.fitting]),
            "calibration": digest_of([read_provenance(path)["content"] for path in recorded.calibration]),
            "text": file_digest(output / TEXT),
            **({} if tuned is None else {"tuning": file_digest(tuned)}),
        },
    )
    policy.save(output)
    return policy


def chosen_config(path: Path) -> PolicyConfig:
    """Settings that a search has chosen: the ``policy`` of a JSON file.

    Raises
    ------
    VarError
        If the file does not hold any.
    """
    try:
        return PolicyConfig.model_validate(read_json(path)["policy"])
    except (KeyError, TypeError, ValidationError) as error:
        raise VarError(f"{path}: holds no settings of a policy; run the tuning stage again") from error


def save_calibrated(recorded: Recorded, config: PolicyConfig, output: Path) -> None:
    """Save calibrated tables, under the name of the last of those that they go by."""
    _check_together(recorded)
    save_tables(output / f"{config.table_set}{_SUFFIX}", calibrated_tables(recorded, config))


def calibrated_tables(recorded: Recorded, config: PolicyConfig, domains: Collection[str] | None = None) -> PolicyTables:
    """Fit tables to the capture split and calibrate them on the calibration split, or load them; nothing is usable yet.

    Parameters
    ----------
    recorded : Recorded
    config : PolicyConfig
    domains : collection of str, optional
        Only text of these domains.
    """
    saved = [path for path in recorded.calibrated if path.name == f"{config.table_set}{_SUFFIX}"]
    if saved and domains is None:
        return load_tables(saved[0])
    if "pair" in config.tables and not recorded.fitting:
        raise VarError(
            "policy.tables: pair is fitted to decisions in their order, and the capture split keeps none; add capture "
            "to capture.trace, or take token alone"
        )
    layout, vocabulary = recorded.layout, int(recorded.provenance["vocabulary"])
    fitted = fit_tables(
        recorded.statistics, layout, vocabulary, recorded.fitting if "pair" in config.tables else (),
        pairs=Pairs() if "position" in config.tables else Pairs(positions=()), totals_of=recorded.calibration,
        isolate_documents=recorded.isolate_documents, domains=domains,
    )  # fmt: skip
    return calibrate(
        fitted, layout, recorded.calibration, config.measure,
        isolate_documents=recorded.isolate_documents, domains=domains,
    )  # fmt: skip


def choose_rows(
    tables: PolicyTables, config: PolicyConfig, recorded: Recorded, domains: Collection[str] | None = None
) -> PolicyTables:
    """Let the fast path take what the predicate says, and the static tokens.

    Parameters
    ----------
    tables : PolicyTables
        Calibrated.
    config : PolicyConfig
    recorded : Recorded
        Whose counts and entropies the classic predicate goes by.
    domains : collection of str, optional
        Only those of these domains.
    """
    entropies = None
    if config.predicate == "classic":
        entropies = mean_entropies(recorded.statistics, len(tables.experts), tables.vocabulary, domains)
    return choose_by(tables, config, entropies)


def choose_by(
    tables: PolicyTables, config: PolicyConfig, entropies: tuple[torch.Tensor, torch.Tensor] | None
) -> PolicyTables:
    """The same with occurrences and entropies, as of :func:`mean_entropies`, that are known; agreement needs none.

    Raises
    ------
    VarError
        If there is not a threshold for each layer where there are several.
    """
    limits = thresholds_of(config, len(tables.experts))
    if config.predicate == "agreement":
        chosen = take_agreeing(tables, limits["agreement_threshold"])
    else:
        assert entropies is not None
        chosen = take_classic(tables, *entropies, limits["frequency_threshold"], limits["entropy_threshold"])
    return take_listed(chosen, config.static_tokens) if config.static_tokens else chosen


def thresholds_of(config: PolicyConfig, layers: int) -> dict[str, Any]:
    """Thresholds by their names: one for all layers, or one for each.

    Raises
    ------
    VarError
        If there are several, and not one for each layer.
    """
    found = {}
    for name, several in config.by_layer:
        if several and len(several) != layers:
            raise VarError(
                f"policy.by_layer.{name}: has {len(several)} numbers, the model has {layers} MoE layers; give one for "
                "each"
            )
        found[name] = several or getattr(config, name)
    return found


def mean_entropies(
    statistics: Path, layers: int, vocabulary: int, domains: Collection[str] | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Occurrences and mean router entropy of every token id at every layer, over all domains or some.

    Returns
    -------
    n, entropy : torch.Tensor
        [L, V]; entropy NaN where a token id did not occur.
    """
    columns = ["domain", "layer", "token_id", "n", "router_entropy_mean"]
    table = read_table(statistics / "token_stats.parquet", columns)
    if domains is not None:
        table = table.filter(pc.is_in(table["domain"], pa.array(sorted(domains))))
    if table["router_entropy_mean"].null_count:
        raise VarError(
            f"{statistics}: logits were not recorded, so there is no router entropy; set policy.predicate: agreement "
            "and tuning.space.predicate: [agreement]"
        )
    layer, token, n = (table[name].to_numpy().astype(np.int64) for name in ("layer", "token_id", "n"))
    cell = layer * vocabulary + token
    total = np.bincount(cell, n, minlength=layers * vocabulary)
    entropy = np.bincount(cell, n * table["router_entropy_mean"].to_numpy(), minlength=layers * vocabulary)
    mean = np.divide(entropy, total, out=np.full(len(total), np.nan), where=total > 0)
    shape = (layers, vocabulary)
    return torch.from_numpy(total.reshape(shape)), torch.from_numpy(mean.reshape(shape))


def settings_of(config: PolicyConfig) -> PolicySettings:
    """How a policy decides, from the configuration."""
    cache, budget = config.cache, config.budget
    limits = CacheLimits(cache.context_window, cache.capacity, cache.time_to_live) if cache.capacity else None
    return PolicySettings(
        config.weights,
        None if limits is None else CacheSettings(limits, cache.confidence_threshold, cache.shared),
        None if budget.max_learned_share >= 1 else BudgetSettings(budget.max_learned_share, budget.window),
    )


def _check_together(recorded: Recorded) -> None:
    own = recorded.provenance
    for path in (*recorded.fitting, *recorded.calibration):
        other: Mapping[str, Any] = read_provenance(path)
        for key in ("model", "corpus", "sites", "config"):
            if other.get(key) != own[key]:
                raise VarError(
                    f"{path}: was recorded with another {key} than the statistics in {recorded.statistics}; run the "
                    "capture stage again"
                )
