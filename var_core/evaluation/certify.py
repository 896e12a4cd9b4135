"""Certifying a policy on the text that it was evaluated on."""

from pathlib import Path

import numpy as np
import pyarrow.compute as pc

from var_core.config.policy import CertificateConfig
from var_core.errors import VarError
from var_core.evaluation import names
from var_core.files import file_digest
from var_core.parquet import read_provenance, read_table
from var_core.policy.certificate import Losses, Terms, certify
from var_core.policy.store import RECORD
from var_core.policy.text import mark_text

_SAME = ("sequence", "cluster", "predicted")


def certify_evaluated(policy: Path, evaluation: Path, documents: Path, config: CertificateConfig) -> None:
    """Write the certificate of a policy from its evaluation.

    Parameters
    ----------
    policy : Path
        Its folder.
    evaluation : Path
        Folder with the files of its part ``policy``.
    documents : Path
        ``documents.parquet`` of the corpus.
    config : CertificateConfig

    Raises
    ------
    VarError
        If the two arms were not run on the same sequences, or nothing can be certified on them.
    """
    losses_of = read_table(evaluation / f"{names.POLICY}.losses.parquet")
    if read_provenance(evaluation / f"{names.POLICY}.losses.parquet")["policy_record"] != file_digest(policy / RECORD):
        raise VarError(f"{evaluation}: another policy was evaluated than {policy} holds; evaluate it again")
    plain, own = (losses_of.filter(pc.field("arm") == arm) for arm in (names.PLAIN, names.POLICY))
    for column in _SAME:
        if not plain[column].equals(own[column]):
            raise VarError(f"{evaluation}: the plain model and the policy ran on other sequences; evaluate both again")
    sequence, cluster, predicted = (own[name].to_numpy().astype(np.int64) for name in _SAME)
    losses = Losses(sequence, cluster, predicted, plain["nll_sum"].to_numpy(), own["nll_sum"].to_numpy())
    trace = evaluation / f"{names.POLICY}.trace.parquet"
    record = read_provenance(trace)
    met = set(read_table(trace, ["document"])["document"].unique().to_pylist())
    marks = mark_text(documents, record["text"]["corpus"]["name"], [record["text"]["split"]], met)
    terms = Terms(
        config.confidence,
        int(record["sequence_length"]),
        int(record["config"]["sequences_per_cluster"]) * int(record["windows"]),
        (-config.clip_loss, config.clip_loss),
    )
    certify(policy, trace, losses, marks, terms)
