"""A policy as one folder: its tables as safetensors, everything else as JSON."""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from var_core.errors import VarError
from var_core.files import digest_of, file_digest, read_json, write_json, written_aside
from var_core.policy.cache import CacheLimits
from var_core.policy.settings import BudgetSettings, CacheSettings, PolicySettings
from var_core.policy.tables import PolicyTables
from var_core.routing.batch import LayerRouter, RouterLayout

FORMAT = 2
TABLES, RECORD = "tables.safetensors", "policy.json"


@dataclass(frozen=True)
class Policy:
    """All that a policy is.

    Attributes
    ----------
    tables : PolicyTables
    settings : PolicySettings
    layout : RouterLayout
        The shape of the decisions of the model that it was made for.
    made : dict
        How the tables were made: predicate, thresholds, measure.
    made_from : dict
        Digests of what they were made from; ``"model"`` and ``"tokenizer"`` are checked on loading.
    """

    tables: PolicyTables
    settings: PolicySettings
    layout: RouterLayout
    made: dict[str, Any]
    made_from: dict[str, str]

    @property
    def isolate_documents(self) -> bool:
        """Whether it was made from documents that know nothing of those before them in a sequence."""
        return bool(self.made.get("isolate_documents", True))

    def save(self, folder: Path) -> None:
        """Write the folder; the record comes last, so that a folder with one is whole."""
        save_tables(folder / TABLES, self.tables)
        record = {
            "format": FORMAT,
            "tables": file_digest(folder / TABLES),
            "settings": asdict(self.settings),
            "layout": [asdict(layer) for layer in self.layout.layers],
            "made": self.made,
            "made_from": self.made_from,
        }
        write_signed(folder / RECORD, record)


def load_policy(folder: Path, made_from: Mapping[str, str] | None = None) -> Policy:
    """Load a policy.

    Parameters
    ----------
    folder : Path
    made_from : mapping, optional
        Digests that the policy must have been made from, such as those of the model and tokenizer it is to run with.

    Raises
    ------
    VarError
        If a file is missing or not what was written, or if the policy was made from something else.
    """
    record = _record(folder)
    for name, digest in (made_from or {}).items():
        own = record["made_from"].get(name)
        if own != digest:
            raise VarError(
                f"{folder / RECORD}: this policy was made for another {name} (digest {str(own)[:12]}, here "
                f"{digest[:12]}); use that {name}, or make the policy again"
            )
    if file_digest(folder / TABLES) != record["tables"]:
        raise VarError(f"{folder / TABLES}: is not the file that {RECORD} was written with; make the policy again")
    tables = load_tables(folder / TABLES)
    layout = RouterLayout(tuple(LayerRouter(**layer) for layer in record["layout"]))
    return Policy(tables, _settings(record["settings"]), layout, record["made"], record["made_from"])


def save_tables(path: Path, tables: PolicyTables) -> None:
    """Write tables to a file of their own."""
    tensors = {field.name: getattr(tables, field.name).cpu().clone() for field in fields(tables)}
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_aside(path) as aside:
        save_file(tensors, aside, {"format": str(FORMAT)})
        # The library lets nobody else read; other files have the rights that the user's mask gives.
        aside.chmod(_rights())


def load_tables(path: Path) -> PolicyTables:
    """Load tables.

    Raises
    ------
    VarError
        If the file cannot be read.
    """
    try:
        tensors = load_file(path)
        return PolicyTables(**{field.name: tensors[field.name] for field in fields(PolicyTables)})
    except (SafetensorError, FileNotFoundError, KeyError) as error:
        raise VarError(f"{path}: cannot be read ({error}); make it again") from error


def _rights() -> int:
    """Rights of a new file under the process's mask, which can only be read by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return 0o666 & ~mask


def _record(folder: Path) -> dict[str, Any]:
    path = folder / RECORD
    if not path.is_file():
        raise VarError(f"{path}: no such file; name a folder that a policy was saved to")
    if not (folder / TABLES).is_file():
        raise VarError(f"{folder / TABLES}: no such file; make the policy again")
    return read_signed(path, FORMAT, "policy")


def write_signed(path: Path, record: Mapping[str, Any]) -> None:
    """Write a record with its own digest."""
    write_json(path, {**record, "digest": digest_of(record)})


def read_signed(path: Path, file_format: int, what: str) -> dict[str, Any]:
    """Read a record that was written with its own digest.

    Raises
    ------
    VarError
        If it is of another format, or not as it was written.
    """
    record = read_json(path)
    if not isinstance(record, dict) or record.get("format") != file_format:
        raise VarError(f"{path}: not a {what} of format {file_format}; make the {what} again with this version")
    if record.pop("digest", None) != digest_of(record):
        raise VarError(f"{path}: was changed after it was written; make the {what} again")
    return record


def _settings(record: Mapping[str, Any]) -> PolicySettings:
    cache, budget = record["cache"], record["budget"]
    return PolicySettings(
        record["weights"],
        None if cache is None else CacheSettings(**{**cache, "limits": CacheLimits(**cache["limits"])}),
        None if budget is None else BudgetSettings(**budget),
    )
