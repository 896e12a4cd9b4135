"""What a policy promises on text it was not made from, in a form that others can check from the files alone."""

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from var_core.errors import VarError
from var_core.files import file_digest, written_aside
from var_core.parquet import read_provenance, read_table, write_table
from var_core.policy.bounds import (
    GUARANTEES,
    Clusters,
    Method,
    simultaneous_lower_bounds,
    sums_by,
    upper_bounds,
)
from var_core.policy.loss_bounds import clipped_loss_bound
from var_core.policy.replay import SequenceSums, replay, sum_by_sequence
from var_core.policy.store import RECORD, TABLES, Policy, load_policy, read_signed, write_signed
from var_core.policy.text import TEXT, check_no_overlap, read_marks, write_marks
from var_core.policy.ways import Way

FORMAT = 2
CERTIFICATE, EVIDENCE, LOSSES = "certificate.json", "evidence.parquet", "losses.parquet"
TRACE_FILE, TRIED_ON = "trace.parquet", "tried_on.parquet"
FILES = (RECORD, TABLES, TEXT, EVIDENCE, LOSSES, TRACE_FILE, TRIED_ON)
"""What stands beside a certificate, and is found out if it is changed."""
_METHOD: Method = "betting"
_PROMISES = 3
"""Agreement, learned share and loss: each may fail with a third of the probability of error."""
_SAME = 1e-9
"""Difference up to which a recomputed number is the promised one."""


@dataclass(frozen=True)
class Losses:
    """Losses by sequence of the plain model and under the policy, in the running model.

    Attributes
    ----------
    sequence, cluster, predicted : numpy.ndarray
        int64 [S]: number of each sequence, of its cluster, and of its predicted tokens.
    plain, policy : numpy.ndarray
        float64 [S]: summed -ln p, in nats.
    """

    sequence: NDArray[np.int64]
    cluster: NDArray[np.int64]
    predicted: NDArray[np.int64]
    plain: NDArray[np.float64]
    policy: NDArray[np.float64]

    def save(self, folder: Path) -> None:
        """Write beside the policy."""
        write_table(folder / LOSSES, pa.table(vars(self)), {})

    @classmethod
    def load(cls, folder: Path) -> "Losses":
        """Read what was written."""
        table = read_table(folder / LOSSES)
        return cls(*(table[field.name].to_numpy() for field in fields(cls)))


@dataclass(frozen=True)
class Terms:
    """How a certificate is made, all of it settled before the text is looked at.

    Attributes
    ----------
    confidence : float
        Probability with which all promises hold together.
    sequence_length : int
        Tokens that a sequence can have at most.
    sequences_per_cluster : int
        Sequences that a cluster can have at most.
    clip : tuple of float
        Range of the loss differences of sequences, in nats a token: what is above the high end counts as that.
    """

    confidence: float = 0.95
    sequence_length: int = 1024
    sequences_per_cluster: int = 1
    clip: tuple[float, float] = (-0.5, 0.5)

    def __post_init__(self) -> None:
        if not 0.5 <= self.confidence < 1:
            raise VarError(f"certificate.confidence is {self.confidence:g}; it must be from 0.5 to below 1")


def certify(folder: Path, trace: Path, losses: Losses, tried_on: pa.Table, terms: Terms) -> dict[str, Any]:
    """Write a certificate into a policy's folder, with all that it takes to check it.

    Parameters
    ----------
    folder : Path
        Of a saved policy.
    trace : Path
        What the router decided in the shadow while the policy ran in the model, on text that it was not made from.
    losses : Losses
        Of the same run, and of the plain model on the same text.
    tried_on : pyarrow.Table
        Marks of that text's documents.
    terms : Terms

    Returns
    -------
    dict
        The certificate.

    Raises
    ------
    VarError
        If the policy was made from some of that text, or another one ran on it; if clusters have text in common, or
        losses and trace are not of the same sequences.
    """
    policy = load_policy(folder)
    if policy.settings.cache is not None and policy.settings.cache.shared:
        raise VarError(f"{folder}: sequences that share a cache depend on each other; nothing can be certified of them")
    check_no_overlap(read_marks(folder / TEXT), tried_on, folder)
    _check_policy(folder, trace)
    sums = _replayed(policy, trace)
    _check_sequences(folder, sums, losses)
    _check_clusters(trace, losses, tried_on)
    with written_aside(folder / TRACE_FILE) as aside:
        shutil.copyfile(trace, aside)
    write_marks(folder / TRIED_ON, tried_on)
    _write_evidence(folder, sums)
    losses.save(folder)
    certificate = _content(policy, sums, losses, terms) | {
        "files": {name: file_digest(folder / name) for name in FILES}
    }
    write_signed(folder / CERTIFICATE, certificate)
    return certificate


def _content(policy: Policy, sums: SequenceSums, losses: Losses, terms: Terms) -> dict[str, Any]:
    """All that a certificate says, but for its files."""
    return {
        "format": FORMAT,
        "terms": asdict(terms) | {"clip": list(terms.clip)},
        "weights": policy.settings.weights,
        "budget": policy.settings.budget is not None,
        "unit": "clusters of sequences without a group of documents in common; promises are about the mean over "
        "sequences of this length, read whole and not generated, drawn as these were; drawn sequences that would have "
        "joined two clusters, or made one larger than allowed, were passed over",
        "clusters": len(np.unique(losses.cluster)),
        "sequences": len(sums.sequence),
        "made_from": policy.made_from,
        "promises": promises(sums, losses, terms),
    }


def _check_sequences(folder: Path, sums: SequenceSums, losses: Losses) -> None:
    if not np.array_equal(np.sort(losses.sequence), np.sort(sums.sequence)):
        raise VarError(f"{folder / LOSSES}: losses are not of the sequences of the trace; evaluate the policy again")
    most = sums.decisions.sum(axis=2).max(axis=1)[np.argsort(sums.sequence)]
    if (losses.predicted[np.argsort(losses.sequence)] > most).any():
        raise VarError(f"{folder / LOSSES}: more tokens are predicted than the trace has; evaluate the policy again")


def _check_policy(folder: Path, trace: Path) -> None:
    """Check that it was this very policy, its record and so its tables, that ran when a trace was recorded."""
    if read_provenance(trace).get("policy_record") != file_digest(folder / RECORD):
        raise VarError(f"{trace}: another policy ran when it was recorded than {folder} holds; evaluate it again")


def _check_clusters(trace: Path, losses: Losses, tried_on: pa.Table) -> None:
    """Check that no group of documents has sequences in two clusters, and that all documents are marked."""
    rows = read_table(trace, ["sequence", "document"]).group_by(["sequence", "document"]).aggregate([])
    group_of = dict(zip(tried_on["document"].to_pylist(), tried_on["group"].to_pylist(), strict=True))
    cluster_of = dict(zip(losses.sequence.tolist(), losses.cluster.tolist(), strict=True))
    owner: dict[str, int] = {}
    for row in rows.to_pylist():
        if row["document"] not in group_of:
            raise VarError(
                f"{trace}: document {row['document']} is not among the marked text; evaluate the policy again"
            )
        cluster, group = cluster_of.get(row["sequence"], -1), group_of[row["document"]]
        if owner.setdefault(group, cluster) != cluster:
            raise VarError(f"{trace}: group {group} has text in two clusters, which are said to be independent")


def promises(sums: SequenceSums, losses: Losses, terms: Terms) -> list[dict[str, Any]]:
    """All promises, which hold together with the terms' confidence.

    Parameters
    ----------
    sums : SequenceSums
        Of S sequences and L layers.
    losses : Losses
    terms : Terms

    Returns
    -------
    list of dict
        The agreement of each layer's fast and cached decisions with what the router says there in the running model,
        at least, as a mean of sequence means; the share of learned decisions, at most, likewise; the loss increase of
        sequences, clipped to the terms' range, in nats a token, at most.
    """
    delta = (1 - terms.confidence) / _PROMISES
    layers = sums.decisions.shape[1]
    replaced = [int(Way.FAST), int(Way.CACHED)]
    order = np.argsort(losses.sequence)
    cluster = np.unique(losses.cluster[order], return_inverse=True)[1][np.argsort(np.argsort(sums.sequence))]

    def voted(above: NDArray[Any], below: NDArray[Any], most: int) -> Clusters:
        """Clusters in which every sequence has one vote: its mean."""
        votes = Clusters.of(above, below, most).means()
        return Clusters.of(sums_by(cluster, votes.sums), sums_by(cluster, votes.counts), terms.sequences_per_cluster)

    agreement = voted(
        sums.set_agreement[..., replaced].sum(axis=2), sums.decisions[..., replaced].sum(axis=2), terms.sequence_length
    )
    bounds, means = simultaneous_lower_bounds(agreement, delta, _METHOD), agreement.ratios
    found = [
        _promise(
            "set_agreement",
            "at least",
            float(bounds[layer]),
            float(means[layer]),
            agreement.counts[:, layer],
        )
        | {"layer": layer}
        for layer in range(layers)
        if agreement.counts[:, layer].any()
    ]
    learned = voted(
        sums.decisions[..., int(Way.LEARNED)].sum(axis=1), sums.decisions.sum(axis=(1, 2)),
        terms.sequence_length * layers,
    )  # fmt: skip
    share = float(upper_bounds(learned, delta, _METHOD)[0])
    found.append(_promise("learned_share", "at most", share, float(learned.ratios[0]), learned.counts[:, 0]))
    difference = losses.policy - losses.plain
    longest = terms.sequence_length * terms.sequences_per_cluster
    loss = clipped_loss_bound(difference, losses.predicted, longest, terms.clip, delta, _METHOD, losses.cluster)
    counts = np.maximum(losses.predicted, 1)
    clipped = np.clip(difference / counts, *terms.clip) * losses.predicted
    mean = float(clipped.sum() / losses.predicted.sum())
    found.append(
        _promise("clipped_loss_increase", "at most", loss.bound, mean, sums_by(losses.cluster, losses.predicted))
        | {"above_clip": loss.above, "clip": list(terms.clip)}
    )
    return found


def _promise(name: str, direction: str, bound: float, estimate: float, counts: NDArray[Any]) -> dict[str, Any]:
    return {
        "name": name, "direction": direction, "bound": bound, "estimate": estimate,
        "clusters": int((counts > 0).sum()), "method": _METHOD, "guarantee": GUARANTEES[_METHOD],
    }  # fmt: skip


def _replayed(policy: Policy, trace: Path) -> SequenceSums:
    replayed = replay(policy.tables, policy.settings, policy.layout, [trace], policy.isolate_documents)
    return sum_by_sequence(replayed, policy.layout)


def _write_evidence(folder: Path, sums: SequenceSums) -> None:
    write_table(folder / EVIDENCE, pa.table(sums.columns()), {})


def _read_evidence(folder: Path, layers: int) -> SequenceSums:
    table = read_table(folder / EVIDENCE)
    shape = (-1, layers, len(Way))
    sequence = table["sequence"].to_numpy().reshape(shape)[:, 0, 0]
    parts = (table[name].to_numpy().reshape(shape) for name in ("decisions", "set_agreement", "recall_at_k"))
    return SequenceSums(sequence, *parts)


def read_certificate(folder: Path) -> dict[str, Any]:
    """Read a policy's certificate.

    Raises
    ------
    VarError
        If there is none, or it is not as it was written.
    """
    return read_signed(folder / CERTIFICATE, FORMAT, "certificate")


@dataclass(frozen=True)
class Check:
    """A line of a verification."""

    line: str
    passed: bool
    said: str = ""


def verify(folder: Path) -> Iterator[Check]:
    """Recompute every number of a certificate from the files alone; ends with the first thing that is not there.

    Yields
    ------
    Check
        The certificate's own digest; every file's; the evidence against the traces replayed through the tables; every
        promise against the evidence.
    """
    try:
        certificate = read_certificate(folder)
    except VarError as error:
        yield Check("certificate", False, str(error))
        return
    yield Check("certificate", True)
    intact = True
    for name in FILES:
        path = folder / name
        said = "" if path.is_file() else f"{path}: no such file"
        if not said and file_digest(path) != certificate.get("files", {}).get(name):
            said = f"{path}: is not the file that was certified"
        intact = intact and not said
        yield Check(name, not said, said)
    if intact:
        yield from _verify_numbers(folder, certificate)


def _verify_numbers(folder: Path, certificate: Mapping[str, Any]) -> Iterator[Check]:
    try:
        policy = load_policy(folder)
        evidence = _read_evidence(folder, len(policy.layout))
        _check_policy(folder, folder / TRACE_FILE)
        again, losses = _replayed(policy, folder / TRACE_FILE), Losses.load(folder)
        _check_sequences(folder, again, losses)
        tried_on = read_marks(folder / TRIED_ON)
        check_no_overlap(read_marks(folder / TEXT), tried_on, folder)
        _check_clusters(folder / TRACE_FILE, losses, tried_on)
        terms = Terms(**{**certificate["terms"], "clip": tuple(certificate["terms"]["clip"])})
        own = _content(policy, again, losses, terms)
    except (VarError, ValueError, KeyError, TypeError) as error:
        yield Check("replay", False, str(error))
        return
    differing = [name for name in vars(again) if not _alike(getattr(again, name), getattr(evidence, name))]
    yield Check("replay", not differing, f"{EVIDENCE}: {', '.join(differing)} not as replayed" if differing else "")
    for name in sorted(own.keys() - {"promises"}):
        said = "" if certificate.get(name) == own[name] else f"says {certificate.get(name)!r}, it is {own[name]!r}"
        yield Check(name, not said, said)
    if len(own["promises"]) != len(certificate["promises"]):
        yield Check("promises", False, f"{len(certificate['promises'])} are made, {len(own['promises'])} can be")
        return
    for made, recomputed in zip(certificate["promises"], own["promises"], strict=True):
        layer = f" layer {made['layer']}" if "layer" in made else ""
        clip = f" (clipped to {made['clip']})" if "clip" in made else ""
        line = f"{made['name']}{layer} {made['direction']} {made['bound']:.6g}{clip}"
        same = _same(made, recomputed)
        yield Check(line, same, "" if same else f"recomputed: {recomputed['bound']:.6g}")


def _alike(again: NDArray[Any], evidence: NDArray[Any]) -> bool:
    """Whether whole numbers are the same, and sums but for the order in which a machine adds."""
    if again.shape != evidence.shape:
        return False
    close = again == evidence if again.dtype.kind == "i" else np.abs(again - evidence) <= _SAME
    return bool(close.all())


def _same(made: Mapping[str, Any], own: Mapping[str, Any]) -> bool:
    if made.keys() != own.keys():
        return False
    numbers = ("bound", "estimate")
    close = all(abs(made[name] - own[name]) <= _SAME for name in numbers)
    return close and all(made[name] == own[name] for name in made if name not in numbers)
