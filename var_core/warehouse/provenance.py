"""Do the files of a run belong together? What their provenance records say, compared before anything is read."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from var_core.errors import VarError
from var_core.files import canonical_json, digest_of
from var_core.parquet import read_provenance
from var_core.statistics.tables import SCHEMAS
from var_core.traces.schema import TRACE
from var_core.warehouse.files import TRACE_KIND, RunFiles

_SHARED_BY_SPLITS = ("model", "corpus", "sites", "sequence_length", "config", "code")
"""What the splits of a run have in common; their plans differ, because a plan names its split."""

_NEEDED = ("split", "plan")

_SCHEMAS = {**SCHEMAS, TRACE_KIND: TRACE}


def check_provenance(files: RunFiles) -> dict[str, dict[str, Any]]:
    """Check that all files of a run are there and were made from the same model, corpus and plan.

    Parameters
    ----------
    files : RunFiles

    Returns
    -------
    dict
        Split -> provenance record of its merged statistics.

    Raises
    ------
    VarError
        On a file that is missing, has other columns than its kind should have, or names another split, plan, model
        or corpus than the rest of the run.
    """
    for path in (files.vocabulary, files.corpus_manifest, files.model_record, files.training, files.verdicts):
        if path is not None and not path.exists():
            raise VarError(f"{path}: no such file; run the stage that makes it")
    records: dict[str, dict[str, Any]] = {}
    for split, kind, path in files.captured():
        record = read_provenance(path)
        for key in (*_NEEDED, *_SHARED_BY_SPLITS):
            if key not in record:
                raise VarError(f"{path}: its provenance does not say its {key}; run its stage again")
        _check_columns(path, kind)
        first = next(iter(records.values()), record)
        same_split = records.setdefault(split, record)
        _require(path, "split", record["split"], split, files.run)
        _require(path, "model", record["model"]["name"], files.model, files.run)
        _require(path, "corpus", record["corpus"]["name"], files.corpus, files.run)
        _require(path, "plan", record["plan"], same_split["plan"], files.run)
        for key in _SHARED_BY_SPLITS:
            _require(path, key, record[key], first[key], files.run)
    if not records:
        raise VarError(f"{files.run}: no statistics files are named, so there is nothing to load")
    statistics = records.get("capture", next(iter(records.values())))
    made_from = {
        "model": statistics["model"]["digest"],
        "corpus": statistics["corpus"].get("digest"),
        "statistics": digest_of(statistics),
    }
    _check_evaluation(files, statistics, made_from)
    _check_tuning(files, made_from)
    _check_systems(files, made_from)
    return records


def _check_evaluation(files: RunFiles, statistics: Mapping[str, Any], made_from: Mapping[str, Any]) -> None:
    """Check that the tables of an evaluation are of one policy, made from this run's `statistics`, or of its text."""
    policies: list[object] = []
    for path in files.evaluation.values():
        record = read_provenance(path)
        policy, text = record.get("policy"), record.get("text")
        if policy is None and text is None:
            raise VarError(f"{path}: its provenance does not say its policy; run its stage again")
        if text is not None:
            _require(path, "run", text["run"], files.run, files.run)
            _require(path, "corpus", text["corpus"], statistics["corpus"], files.run)
        if policy is not None:
            for key, digest in made_from.items():
                _require(path, key, policy.get(key), digest, files.run)
            policies.append(policy)
            _require(path, "policy", policy, policies[0], files.run)


def _check_tuning(files: RunFiles, made_from: Mapping[str, Any]) -> None:
    """Check that the tables of a study are of policies made from this run's statistics."""
    for path in files.tuning.values():
        record = read_provenance(path).get("made_from")
        if record is None:
            raise VarError(f"{path}: its provenance does not say what it was made_from; run its stage again")
        for key, digest in made_from.items():
            _require(path, key, record.get(key), digest, files.run)


def _check_systems(files: RunFiles, made_from: Mapping[str, Any]) -> None:
    """Check that what was simulated, profiled and run offloaded is of this run, and of one policy, if it has one."""
    policies: list[object] = [read_provenance(path).get("policy") for path in files.evaluation.values()]
    policies = [policy for policy in policies if policy is not None]
    for path in files.systems.values():
        record = read_provenance(path)
        run, policy = record.get("run"), record.get("policy")
        if run is None and policy is None:
            raise VarError(f"{path}: its provenance says neither its run nor its policy; run its stage again")
        if run is not None:
            _require(path, "run", run, files.run, files.run)
        if policy is not None:
            for key, digest in made_from.items():
                _require(path, key, policy.get(key), digest, files.run)
            policies.append(policy)
            _require(path, "policy", policy, policies[0], files.run)


def _check_columns(path: Path, kind: str) -> None:
    have, expected = pq.read_schema(path).names, _SCHEMAS[kind].names
    if have != expected:
        odd = ", ".join(sorted(set(have) ^ set(expected))) or "their order"
        raise VarError(f"{path}: has other columns than {kind} should have ({odd}); run its stage again")


def _require(path: Path, key: str, value: object, expected: object, run: str) -> None:
    if value != expected:
        raise VarError(
            f"{path}: was made for {key} {_short(value)}, but run {run} has {key} {_short(expected)}; "
            "delete it and run its stage again"
        )


def _short(value: object, length: int = 120) -> str:
    text = value if isinstance(value, str) else canonical_json(value)
    return text if len(text) <= length else f"{text[:length]}…"
