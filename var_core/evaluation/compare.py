"""The stage that puts an evaluation together: tables for the warehouse, the verdict, and a report to read."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa

from var_core.config.policy import EvaluationConfig, PolicyConfig
from var_core.evaluation import names
from var_core.evaluation.on_traces import FREQUENCIES, GAINS, HeldOut, frequency_rows, gain_rows
from var_core.evaluation.report import arm_lines, gain_lines, report_text
from var_core.evaluation.results import EVALUATIONS, as_table, evaluation_rows, read_arms
from var_core.evaluation.verdict import verdict
from var_core.files import canonical_json, read_json, write_json, write_text
from var_core.parquet import write_table
from var_core.policy.certificate import read_certificate
from var_core.policy.make import Recorded, calibrated_tables
from var_core.policy.store import Policy, load_policy
from var_core.policy.tables import token_only

POLICIES = pa.schema(
    [
        pa.field("layer", pa.int16(), nullable=False),
        pa.field("predicate", pa.string(), nullable=False),
        pa.field("threshold", pa.float64()),
        pa.field("weights", pa.string(), nullable=False),
        pa.field("token_entries", pa.int64(), nullable=False),
        pa.field("token_usable", pa.int64(), nullable=False),
        pa.field("pair_entries", pa.int64(), nullable=False),
        pa.field("pair_usable", pa.int64(), nullable=False),
        pa.field("settings", pa.string(), nullable=False),
        pa.field("made_from", pa.string(), nullable=False),
    ]
)
"""A row a layer of a policy: entries of its tables, and how many the fast path takes."""

CERTIFICATES = pa.schema(
    [
        pa.field("layer", pa.int16()),
        pa.field("promise", pa.string(), nullable=False),
        pa.field("direction", pa.string(), nullable=False),
        pa.field("bound", pa.float64(), nullable=False),
        pa.field("estimate", pa.float64(), nullable=False),
        pa.field("confidence", pa.float64(), nullable=False),
        pa.field("clusters", pa.int64(), nullable=False),
        pa.field("sequences", pa.int64(), nullable=False),
        pa.field("method", pa.string(), nullable=False),
        pa.field("guarantee", pa.string(), nullable=False),
    ]
)
"""A row a promise; all of a run hold together with the confidence."""


def compare_policies(
    folder: Path,
    policy_folder: Path,
    traces: Sequence[Path],
    recorded: Recorded,
    policy_config: PolicyConfig,
    config: EvaluationConfig,
    code: str,
    tuned: bool = False,
) -> None:
    """Put the arms of an evaluation together.

    Parameters
    ----------
    folder : Path
        With the arms' files and ``speed.json``; tables, verdict and report go there.
    policy_folder : Path
    traces : sequence of Path
        Of the held-out split.
    recorded : Recorded
        What the policy was made from.
    policy_config : PolicyConfig
        As configured.
    config : EvaluationConfig
    code : str
        Digest of the stage's code.
    tuned : bool, optional
        Whether the policy is what a search has chosen.
    """
    policy, certificate = load_policy(policy_folder), read_certificate(policy_folder)
    rows = evaluation_rows(read_arms(folder, config, tuned), config, policy.settings.weights)
    held_out = HeldOut.of(traces, recorded.documents)
    # A policy may have been made without pairs, but what they are worth does not depend on what it takes.
    as_made = policy_config.predicate == "agreement" and not tuned
    tables = policy.tables if as_made else calibrated_tables(recorded, policy_config)
    gains = gain_rows(tables, held_out, recorded, policy_config, config)
    by_arm = {names.TOKEN_TABLE: token_only(tables), names.POLICY: tables}
    frequencies = frequency_rows(by_arm, held_out, recorded, config)
    speed = read_json(folder / "speed.json")
    found = verdict(rows, gains, certificate, speed, config) | {"arms": arm_lines(rows), "gains": gain_lines(gains)}
    base = {"stage": "evaluation", "policy": policy.made_from, "config": config.model_dump(mode="json"), "code": code}
    write_table(folder / "evaluations.parquet", as_table(rows, EVALUATIONS), base)
    write_table(folder / "gains.parquet", pa.Table.from_pylist(gains, schema=GAINS), base)
    write_table(folder / "frequencies.parquet", pa.Table.from_pylist(frequencies, schema=FREQUENCIES), base)
    write_table(folder / "policies.parquet", pa.Table.from_pylist(_policy_rows(policy), schema=POLICIES), base)
    promised = pa.Table.from_pylist(_certificate_rows(certificate), schema=CERTIFICATES)
    write_table(folder / "certificates.parquet", promised, base)
    write_text(folder / "report.txt", report_text(recorded.provenance["run"], rows, gains, certificate, found))
    write_json(folder / "verdict.json", found)


def _policy_rows(policy: Policy) -> list[dict[str, Any]]:
    tables, made = policy.tables, policy.made
    V = tables.vocabulary
    name = "entropy_threshold" if made["predicate"] == "classic" else "agreement_threshold"
    shared = {
        "predicate": made["predicate"],
        "weights": policy.settings.weights,
        "settings": canonical_json(asdict(policy.settings)),
        "made_from": canonical_json(policy.made_from),
    }
    parts = {"token": slice(0, V), "pair": slice(V, -1)}
    return [
        {
            "layer": layer,
            "threshold": (made.get("by_layer", {}).get(name) or [made[name]] * len(policy.layout))[layer],
            **shared,
            **{f"{kind}_entries": int(tables.present[layer, own].sum()) for kind, own in parts.items()},
            **{
                f"{kind}_usable": int((tables.usable & tables.present)[layer, own].sum()) for kind, own in parts.items()
            },
        }
        for layer in range(len(policy.layout))
    ]


def _certificate_rows(certificate: dict[str, Any]) -> list[dict[str, Any]]:
    names_of = ("direction", "bound", "estimate", "clusters", "method", "guarantee")
    return [
        {
            "layer": promise.get("layer"),
            "promise": promise["name"],
            "confidence": certificate["terms"]["confidence"],
            "sequences": certificate["sequences"],
            **{name: promise[name] for name in names_of},
        }
        for promise in certificate["promises"]
    ]
