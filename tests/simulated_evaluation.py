"""The tables of an evaluation with simulated arms: those of losses and ways made by the real code, the rest by hand."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from var_core.config.policy import EvaluationConfig
from var_core.evaluation import names
from var_core.evaluation.compare import CERTIFICATES, POLICIES
from var_core.evaluation.on_traces import FREQUENCIES, GAINS
from var_core.evaluation.results import EVALUATIONS, ArmResult, as_table, evaluation_rows
from var_core.evaluation.transfer import TRANSFER
from var_core.files import canonical_json, digest_of
from var_core.models.perplexity import SequenceScores
from var_core.parquet import write_table

CONFIG = EvaluationConfig(thresholds=(0.5,), bootstrap=50)
SEQUENCES, TOKENS = 24, 15
WITHOUT_WAYS = (names.PLAIN, names.ORACLE)
COVERAGES = (0.2, 0.5, 0.8, 1.0)


def write_evaluation(folder: Path, statistics: dict, domains: tuple[str, ...], seed: int = 0) -> None:
    """Write the six tables into a run's folder ``evaluation``, with the provenance that the stage gives them.

    `statistics` is the provenance of the run's merged statistics of the capture split.
    """
    generator, layers = np.random.default_rng(seed), len(statistics["sites"])
    made_from = {
        "model": statistics["model"]["digest"],
        "tokenizer": "digest of the tokenizer",
        "corpus": statistics["corpus"]["digest"],
        "statistics": digest_of(statistics),
        "calibration": "digest of the calibration",
        "text": "digest of the text",
    }
    made = {"config": CONFIG.model_dump(mode="json"), "code": "c0de"}
    shared = {"stage": "evaluation", "policy": made_from, **made}
    arms = [simulated_arm(generator, arm, layers) for arm in names.arm_names(CONFIG)]
    write_table(folder / "evaluations.parquet", as_table(evaluation_rows(arms, CONFIG), EVALUATIONS), shared)
    tables = {
        "policies": (policy_rows(layers, made_from), POLICIES),
        "gains": (gain_rows(generator, layers), GAINS),
        "frequencies": (frequency_rows(generator, layers), FREQUENCIES),
        "certificates": (promise_rows(layers), CERTIFICATES),
    }
    for name, (rows, schema) in tables.items():
        write_table(folder / f"{name}.parquet", pa.Table.from_pylist(rows, schema), shared)
    text = {"run": statistics["run"], "split": "heldout", "corpus": statistics["corpus"]}
    transfer = pa.Table.from_pylist(transfer_rows(generator, domains), TRANSFER)
    write_table(folder / "transfer.parquet", transfer, {"stage": "transfer", "text": text, **made})


def simulated_arm(generator: np.random.Generator, arm: str, layers: int) -> ArmResult:
    """Random losses, higher than the plain model's, and random ways."""
    harm = 0.0 if arm in WITHOUT_WAYS else generator.uniform(0.01, 0.5)
    base = np.random.default_rng(7).uniform(2, 4, SEQUENCES)
    scores = SequenceScores((base + harm) * TOKENS, np.full(SEQUENCES, TOKENS))
    domain = np.array(["code", "prose"])[np.arange(SEQUENCES) % 2]
    ways = None
    if arm not in WITHOUT_WAYS:
        decisions = generator.multinomial(TOKENS, (0.3, 0.5, 0.2), (SEQUENCES, layers)).astype(float)
        share = generator.uniform(0.3, 0.9, decisions.shape)
        ways = np.stack([decisions, decisions * share, decisions * np.sqrt(share)])
    return ArmResult(arm, scores, np.arange(SEQUENCES) // 2, domain, ways)


def policy_rows(layers: int, made_from: dict) -> list[dict]:
    """More usable entries the deeper the layer."""
    return [
        {
            "layer": layer, "predicate": "agreement", "threshold": 0.8, "weights": "stored", "token_entries": 40,
            "token_usable": 10 + layer, "pair_entries": 90, "pair_usable": 30 + layer,
            "settings": canonical_json({"weights": "stored"}), "made_from": canonical_json(made_from),
        }
        for layer in range(layers)
    ]  # fmt: skip


def gain_rows(generator: np.random.Generator, layers: int) -> list[dict]:
    """Agreement that falls with coverage."""
    rows = []
    for layer in range(layers):
        for measure in ("set_agreement", "recall_at_k"):
            for coverage in COVERAGES:
                token, gain = 0.9 - 0.4 * coverage, generator.uniform(0, 0.1)
                rows.append(
                    {"layer": layer, "measure": measure, "coverage": coverage, "token_tables": token,
                     "all_tables": token + gain, "gain": gain, "low": gain - 0.01, "high": gain + 0.01}
                )  # fmt: skip
    return rows


def frequency_rows(generator: np.random.Generator, layers: int) -> list[dict]:
    """Two ranges of occurrences, the second without end."""
    return [
        {"arm": arm, "layer": layer, "from_count": first, "to_count": last,
         "decisions": decisions * (layers if layer is None else 1), "set_agreement": generator.uniform(), "low": None,
         "high": None}
        for arm in (names.TOKEN_TABLE, names.POLICY)
        for layer in (None, *range(layers))
        for first, last, decisions in ((0, 9, 100), (10, None, 260))
    ]  # fmt: skip


def promise_rows(layers: int) -> list[dict]:
    """A promise of agreement a layer, one of the learned share, and one of the loss."""
    shared = {
        "confidence": 0.95, "clusters": 12, "sequences": SEQUENCES, "method": "betting", "guarantee": "finite samples",
    }  # fmt: skip
    agreement = [
        {
            "layer": layer,
            "promise": "set_agreement",
            "direction": "at least",
            "bound": 0.6,
            "estimate": 0.7 + layer / 50,
        }
        for layer in range(layers)
    ]
    whole = [
        {"layer": None, "promise": "learned_share", "direction": "at most", "bound": 0.4, "estimate": 0.3},
        {"layer": None, "promise": "clipped_loss_increase", "direction": "at most", "bound": 0.09, "estimate": 0.02},
    ]
    return [row | shared for row in (*agreement, *whole)]


def transfer_rows(generator: np.random.Generator, domains: tuple[str, ...]) -> list[dict]:
    """A matrix, if there is more than one domain."""
    return [
        {"made_on": made_on, "evaluated_on": evaluated_on, "measure": measure, "value": generator.uniform(),
         "low": None, "high": None, "n": 12, "n_unit": unit}
        for made_on in (*domains, "all")
        for evaluated_on in domains
        for measure, unit in (
            ("loss_difference", "clusters"), ("coverage", "decisions"), ("set_agreement", "decisions"),
            ("recall_at_k", "decisions"),
        )
        if len(domains) > 1
    ]  # fmt: skip
