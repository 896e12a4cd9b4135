"""What a policy promises on text it was not made from, in a form that others can check from the files alone."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from var_core.errors import VarError
from var_core.files import file_digest
from var_core.parquet import read_table, write_table
from var_core.policy.bounds import GUARANTEES, Clusters, Method, simultaneous_lower_bounds, upper_bounds
from var_core.policy.loss_bounds import clipped_loss_bound
from var_core.policy.replay import SequenceSums, replay, sum_by_sequence
from var_core.policy.store import RECORD, TABLES, Policy, load_policy, read_signed, write_signed
from var_core.policy.ways import Way

FORMAT = 1
CERTIFICATE, EVIDENCE, LOSSES = "certificate.json", "evidence.parquet", "losses.parquet"
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
    sequence, predicted : numpy.ndarray
        int64 [S]: number of each sequence, and of its predicted tokens.
    plain, policy : numpy.ndarray
        float64 [S]: summed -ln p, in nats.
    """

    sequence: NDArray[np.int64]
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
        return cls(*(table[name].to_numpy() for name in ("sequence", "predicted", "plain", "policy")))


@dataclass(frozen=True)
class Terms:
    """How a certificate is made, all of it settled before the text is looked at.

    Attributes
    ----------
    confidence : float
        Probability with which all promises hold together.
    sequence_length : int
        Tokens that a sequence can have at most.
    clip : tuple of float
        Range of the loss differences of sequences, in nats a token: what is above the high end counts as that.
    """

    confidence: float = 0.95
    sequence_length: int = 1024
    clip: tuple[float, float] = (-0.5, 0.5)

    def __post_init__(self) -> None:
        if not 0.5 <= self.confidence < 1:
            raise VarError(f"policy.certificate.confidence is {self.confidence:g}; it must be from 0.5 to below 1")


def certify(folder: Path, traces: Sequence[Path], losses: Losses, terms: Terms) -> dict[str, Any]:
    """Write a certificate into a policy's folder.

    Parameters
    ----------
    folder : Path
        Of a saved policy.
    traces : sequence of Path
        Recorded routing of text that the policy was not made from: what agreement and shares are computed on.
    losses : Losses
        Of the same text.
    terms : Terms

    Returns
    -------
    dict
        The certificate.

    Raises
    ------
    VarError
        If losses and traces are not of the same sequences.
    """
    policy = load_policy(folder)
    if policy.settings.cache is not None and policy.settings.cache.shared:
        raise VarError(f"{folder}: sequences that share a cache depend on each other; nothing can be certified of them")
    sums = _replayed(policy, traces)
    _check_sequences(folder, sums, losses)
    _write_evidence(folder, sums)
    losses.save(folder)
    files = {name: folder / name for name in (RECORD, TABLES, EVIDENCE, LOSSES)}
    files |= {f"trace {number}": path for number, path in enumerate(traces)}
    certificate = _content(policy, sums, losses, terms) | {
        "files": {
            name: {"path": os.path.relpath(path, folder), "digest": file_digest(path)} for name, path in files.items()
        }
    }
    write_signed(folder / CERTIFICATE, certificate)
    return certificate


def _content(policy: Policy, sums: SequenceSums, losses: Losses, terms: Terms) -> dict[str, Any]:
    """All that a certificate says, but for its files."""
    return {
        "format": FORMAT,
        "terms": asdict(terms) | {"clip": list(terms.clip)},
        "unit": "sequences; promises are about the mean over sequences drawn as these were",
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
        The agreement of each layer's fast and cached decisions with what the router decided in the unchanged model, at
        least, as a mean of sequence means; the share of learned decisions, at most; the loss increase of sequences,
        clipped to the terms' range, in nats a token, at most.
    """
    delta = (1 - terms.confidence) / _PROMISES
    layers = sums.decisions.shape[1]
    replaced = [int(Way.FAST), int(Way.CACHED)]
    agreement = Clusters.of(
        sums.set_agreement[..., replaced].sum(axis=2), sums.decisions[..., replaced].sum(axis=2), terms.sequence_length
    ).means()
    bounds, means = simultaneous_lower_bounds(agreement, delta, _METHOD), agreement.ratios
    found = [
        _promise(
            "set_agreement_on_plain_states",
            "at least",
            float(bounds[layer]),
            float(means[layer]),
            agreement.counts[:, layer],
        )
        | {"layer": layer}
        for layer in range(layers)
        if agreement.counts[:, layer].any()
    ]
    learned = Clusters.of(
        sums.decisions[..., int(Way.LEARNED)].sum(axis=1),
        sums.decisions.sum(axis=(1, 2)),
        terms.sequence_length * layers,
    ).means()
    share = float(upper_bounds(learned, delta, _METHOD)[0])
    found.append(_promise("learned_share", "at most", share, float(learned.ratios[0]), learned.counts[:, 0]))
    difference = losses.policy - losses.plain
    loss = clipped_loss_bound(difference, losses.predicted, terms.sequence_length, terms.clip, delta, _METHOD)
    clipped = np.clip(difference / losses.predicted, *terms.clip) * losses.predicted
    mean = float(clipped.sum() / losses.predicted.sum())
    found.append(
        _promise("clipped_loss_increase", "at most", loss.bound, mean, losses.predicted)
        | {"above_clip": loss.above, "clip": list(terms.clip)}
    )
    return found


def _promise(name: str, direction: str, bound: float, estimate: float, counts: NDArray[Any]) -> dict[str, Any]:
    return {
        "name": name, "direction": direction, "bound": bound, "estimate": estimate,
        "sequences": int((counts > 0).sum()), "method": _METHOD, "guarantee": GUARANTEES[_METHOD],
    }  # fmt: skip


def _replayed(policy: Policy, traces: Sequence[Path]) -> SequenceSums:
    return sum_by_sequence(replay(policy.tables, policy.settings, policy.layout, traces), policy.layout)


def _write_evidence(folder: Path, sums: SequenceSums) -> None:
    S, L, W = sums.decisions.shape
    columns = {
        "sequence": np.repeat(sums.sequence, L * W),
        "layer": np.tile(np.repeat(np.arange(L), W), S),
        "way": np.tile(np.arange(W), S * L),
        "decisions": sums.decisions.ravel(),
        "set_agreement": sums.set_agreement.ravel(),
        "recall_at_k": sums.recall_at_k.ravel(),
    }
    write_table(folder / EVIDENCE, pa.table(columns), {})


def _read_evidence(folder: Path, layers: int) -> SequenceSums:
    table = read_table(folder / EVIDENCE)
    shape = (-1, layers, len(Way))
    sequence = table["sequence"].to_numpy().reshape(shape)[:, 0, 0]
    parts = (table[name].to_numpy().reshape(shape) for name in ("decisions", "set_agreement", "recall_at_k"))
    return SequenceSums(sequence, *parts)


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
        certificate = read_signed(folder / CERTIFICATE, FORMAT, "certificate")
    except VarError as error:
        yield Check("certificate", False, str(error))
        return
    yield Check("certificate", True)
    intact = True
    for name, file in certificate["files"].items():
        path = folder / file["path"]
        said = "" if path.is_file() else f"{path}: no such file"
        if not said and file_digest(path) != file["digest"]:
            said = f"{path}: is not the file that was certified"
        intact = intact and not said
        yield Check(name, not said, said)
    if intact:
        yield from _verify_numbers(folder, certificate)


def _verify_numbers(folder: Path, certificate: Mapping[str, Any]) -> Iterator[Check]:
    try:
        policy = load_policy(folder)
        evidence = _read_evidence(folder, len(policy.layout))
        traces = [folder / file["path"] for name, file in certificate["files"].items() if name.startswith("trace ")]
        again, losses = _replayed(policy, traces), Losses.load(folder)
        _check_sequences(folder, again, losses)
        terms = Terms(**{**certificate["terms"], "clip": tuple(certificate["terms"]["clip"])})
        own = _content(policy, again, losses, terms)
    except (VarError, ValueError, KeyError, TypeError) as error:
        yield Check("replay", False, str(error))
        return
    differing = [name for name in vars(again) if not np.array_equal(getattr(again, name), getattr(evidence, name))]
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


def _same(made: Mapping[str, Any], own: Mapping[str, Any]) -> bool:
    if made.keys() != own.keys():
        return False
    numbers = ("bound", "estimate")
    close = all(abs(made[name] - own[name]) <= _SAME for name in numbers)
    return close and all(made[name] == own[name] for name in made if name not in numbers)
