"""Whether the disk has room for what a configuration will write, as far as that can be told beforehand."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from var_core.config.corpus import FilesCorpus, HubCorpus, PythonStdlibCorpus
from var_core.config.models import DemoModel, FolderModel
from var_core.config.root import Config
from var_core.corpus.files import corpus_paths
from var_core.errors import VarError
from var_core.preflight.check import Check, failed, passed, unchecked

SPACE = "disk space"
LEAST_FREE = 1_000_000_000
"""Bytes that must be free even if nobody knows what will be written."""
# Bytes a row takes in a Parquet file before it is compressed, from the schemas; on disk it is about half of that.
_TOKEN_ROW, _EXPERT_ROW, _TRACE_ROW, _TRACE_EXPERT = 62, 32, 28, 6
_COPIES = 4
"""Statistics lie in the shards, merged, in the database, and in the checkpoints and parts under way."""
_STDLIB_TOKENS = 20_000_000
"""More than all text that comes with Python has."""
_BYTES_A_TOKEN = 2
"""Fewer than tokens of plain text have."""
_NAMES = {
    "layers": ("num_hidden_layers", "n_layer", "num_layers"),
    "experts": ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts"),
    "top_k": ("num_experts_per_tok", "num_experts_per_token", "moe_top_k", "moe_k"),
    "vocabulary": ("vocab_size",),
}


@dataclass(frozen=True)
class Shape:
    """What of a model decides how large its statistics are."""

    layers: int
    experts: int
    top_k: int
    vocabulary: int


def check_space(config: Config, results: Path) -> Check:
    """Compare the free space under a folder with what the runs of a configuration may write at most."""
    there = next(path for path in (results.resolve(), *results.resolve().parents) if path.exists())
    system = os.statvfs(there)
    free = system.f_bavail * system.f_frsize
    said = f"{_size(free)} are free in {results} (quotas are not looked at)"
    needed, unknown = 0, []
    for run in config.runs:
        size = most_bytes(config, run.model, run.corpus)
        if size is None:
            unknown.append(f"{run.model}/{run.corpus}")
        else:
            needed += size
    if free < max(needed, LEAST_FREE):
        wanted = (
            f"up to {_size(needed)} may be written" if needed >= LEAST_FREE else f"{_size(LEAST_FREE)} are the least"
        )
        return failed(SPACE, f"{said}, {wanted}; free space, or work in another folder (snakemake --directory)")
    if unknown:
        return unchecked(SPACE, f"{said}; what {unknown[0]} writes depends on tokens or sizes that are not known yet")
    return passed(SPACE, f"{said}, at most {_size(needed)} will be written")


def most_bytes(config: Config, model: str, corpus: str) -> int | None:
    """Bytes that a run writes at most; None if tokens or the model's sizes are not known beforehand."""
    tokens, shape = _tokens(config, corpus), _shape(config.models[model])
    if tokens is None or shape is None:
        return None
    rows = experts = trace = 0
    for split, shards in config.capture.shards.model_dump().items():
        # Of each shard a row for a token that occurs; the busiest case is that all tokens differ.
        a_shard = -(-tokens[split] // shards)
        rows += shards * min(a_shard, shape.vocabulary)
        experts += shards * min(a_shard * shape.top_k, shape.vocabulary * shape.experts)
        trace += tokens[split] if split in config.capture.trace else 0
    statistics = shape.layers * (rows * _TOKEN_ROW + experts * _EXPERT_ROW)
    return _COPIES * statistics + shape.layers * trace * (_TRACE_ROW + shape.top_k * _TRACE_EXPERT)


def _tokens(config: Config, corpus: str) -> dict[str, int] | None:
    """Tokens of each split at most."""
    text = config.corpora[corpus]
    if not isinstance(text, PythonStdlibCorpus | FilesCorpus | HubCorpus):
        return None
    limits, shares = text.max_tokens.model_dump(), text.splits.model_dump()
    whole = _all_tokens(corpus, text)
    found = {}
    for split in config.capture.shards.model_dump():
        known = [limits[split]] if limits[split] is not None else []
        if whole is not None:
            known.append(int(whole * min(1.0, 2 * shares[split])))  # splits of few documents are uneven
        if not known:
            return None
        found[split] = min(known)
    return found


def _all_tokens(corpus: str, text: PythonStdlibCorpus | FilesCorpus | HubCorpus) -> int | None:
    if isinstance(text, PythonStdlibCorpus):
        return _STDLIB_TOKENS
    if isinstance(text, FilesCorpus):
        try:
            paths = corpus_paths(corpus, text.domains)
            if any(path.suffix in (".gz", ".parquet") for path in map(Path, paths)):
                return None  # compressed
            return sum(Path(path).stat().st_size for path in paths) // _BYTES_A_TOKEN
        except (VarError, OSError):
            return None
    return None


def _shape(model: Any) -> Shape | None:
    if isinstance(model, DemoModel):
        return Shape(model.layers, model.experts, model.top_k, model.vocabulary)
    if not isinstance(model, FolderModel):
        return None
    try:
        values = json.loads((Path(model.path).expanduser() / "config.json").read_text(encoding="utf-8"))
        values = values | (values.get("text_config") or {})
        return Shape(**{key: _first(values, names) for key, names in _NAMES.items()})
    except (OSError, ValueError, TypeError, AttributeError, StopIteration):
        return None


def _first(values: Mapping[str, Any], names: tuple[str, ...]) -> int:
    return int(values[next(name for name in names if name in values)])


def _size(number: float) -> str:
    return f"{number / 1e9:.1f} GB" if number >= 1e8 else f"{number / 1e6:.1f} MB"
