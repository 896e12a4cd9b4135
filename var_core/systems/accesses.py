"""What a cache of experts is asked for: the distinct experts of every MoE layer in every forward pass of a trace."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from var_core.errors import VarError
from var_core.parquet import read_provenance
from var_core.statistics.compiled import compiled

Phase = Literal["prefill", "decode"]
Wholes = NDArray[np.int64]

NEVER = np.iinfo(np.int64).max // 4


@dataclass(frozen=True)
class Accesses:
    """Experts that are needed together, one layer of a forward pass after another.

    Attributes
    ----------
    layers, experts_of_layer : int
        L and E; an expert's number is layer * E + its number in the layer.
    offsets : numpy.ndarray
        int64 [P * L + 1]: where the experts of each layer of each of P passes begin.
    experts : numpy.ndarray
        int64 [N]: their numbers, distinct and ascending within a layer of a pass.
    unit : numpy.ndarray
        int64 [P]: which sequence (of a batch: which batch) a pass belongs to, from 0 and ascending.
    tokens : numpy.ndarray
        int64 [P]: tokens of the pass.
    starts : numpy.ndarray
        bool [P]: passes before which a cold cache is emptied: the first of each unit, if nothing else is said.
    """

    layers: int
    experts_of_layer: int
    offsets: Wholes
    experts: Wholes
    unit: Wholes
    tokens: Wholes
    starts: NDArray[np.bool_]

    @property
    def passes(self) -> int:
        """Forward passes, P."""
        return len(self.unit)

    @property
    def units(self) -> int:
        """Sequences or batches of them, U."""
        return int(self.unit[-1]) + 1 if len(self.unit) else 0

    def restarting_at(self, starts: NDArray[np.bool_]) -> "Accesses":
        """The same with other places where a cold cache is emptied, bool [P]."""
        return replace(self, starts=starts)

    @cached_property
    def step(self) -> Wholes:
        """The layer of a pass that each access belongs to, int64 [N], from 0 to P * L - 1."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))

    def counts(self) -> Wholes:
        """Accesses of each expert, int64 [L * E]."""
        return np.bincount(self.experts, minlength=self.layers * self.experts_of_layer)

    def per_unit(self) -> Wholes:
        """Accesses of each unit, int64 [U]."""
        return np.bincount(self.unit[self.step // self.layers], minlength=self.units)

    def next_uses(self, restarting: bool) -> Wholes:
        """The step at which each access's expert is needed next, int64 [N]; :data:`NEVER` if it is not.

        Parameters
        ----------
        restarting : bool
            Whether the cache is emptied where :attr:`starts` says.
        """
        order = np.argsort(self.experts, kind="stable")
        sorted_experts, sorted_steps = self.experts[order], self.step[order]
        again = sorted_experts[1:] == sorted_experts[:-1]
        if restarting:
            life = np.cumsum(self.starts)[sorted_steps // self.layers]
            again &= life[1:] == life[:-1]
        following = np.full(len(order), NEVER)
        following[:-1][again] = sorted_steps[1:][again]
        found = np.empty(len(order), np.int64)
        found[order] = following
        return found


@dataclass(frozen=True)
class Decisions:
    """A trace as tokens by layers, in order of sequence and position.

    Attributes
    ----------
    sequence, place, document : numpy.ndarray
        int64 [T]: number of the sequence, place in it, and number of the document.
    experts : numpy.ndarray
        int16 [T, L, k]; E where a slot is empty.
    width : int
        E.
    domain : numpy.ndarray
        str [T].
    token_id : numpy.ndarray or None
        int64 [T]; None where they were not recorded.
    source : str
        Where it was read from, for messages.
    """

    sequence: Wholes
    place: Wholes
    document: Wholes
    experts: NDArray[np.int16]
    width: int
    domain: NDArray[np.str_]
    token_id: Wholes | None
    source: str

    def __len__(self) -> int:
        return len(self.sequence)

    def of(self, tokens: NDArray[np.bool_] | Wholes) -> "Decisions":
        """Those of some tokens, or all in another order."""
        own = {
            name: getattr(self, name)[tokens]
            for name in ("sequence", "place", "document", "experts", "domain", "token_id")
            if getattr(self, name) is not None
        }
        return replace(self, **own)

    def some_sequences(self, number: int | None, seed: int) -> "Decisions":
        """Those of some sequences, drawn at random, in their order; all for None."""
        own = np.unique(self.sequence)
        if number is None or number >= len(own):
            return self
        return self.of(np.isin(self.sequence, np.random.default_rng(seed).choice(own, number, replace=False)))


def read_trace(traces: Sequence[Path]) -> Decisions:
    """Read the traces of a split.

    Raises
    ------
    VarError
        If there are no decisions.
    """
    sites = read_provenance(traces[0])["sites"]
    layers, width, top_k = len(sites), max(site["experts"] for site in sites), max(site["top_k"] for site in sites)
    columns = ["sequence", "position", "layer", "document", "domain", "token_id", "experts"]
    rows = pa.concat_tables([pq.read_table(path, columns=columns) for path in traces]).combine_chunks()
    if not len(rows):
        raise VarError(f"{traces[0].parent}: the trace has no decisions; capture it again, or correct the split")
    sequence, position, layer, document = (
        rows[name].to_numpy().astype(np.int64) for name in ("sequence", "position", "layer", "document")
    )
    order = np.lexsort((layer, position, sequence))
    first = np.append(True, (np.diff(sequence[order]) != 0) | (np.diff(position[order]) != 0))
    token = np.empty(len(order), np.int64)
    token[order] = np.cumsum(first) - 1
    experts = np.full((int(first.sum()), layers, top_k), width, np.int16)
    lists = rows["experts"].combine_chunks()
    lengths = pc.list_value_length(lists).to_numpy()
    within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    experts[np.repeat(token, lengths), np.repeat(layer, lengths), within] = pc.list_flatten(lists).to_numpy()
    heads = order[first]
    known = not rows["token_id"].null_count
    return Decisions(
        sequence=sequence[heads],
        place=position[heads],
        document=document[heads],
        experts=experts,
        width=width,
        domain=np.asarray(rows["domain"].cast(pa.string()).to_numpy(zero_copy_only=False))[heads].astype(np.str_),
        token_id=rows["token_id"].to_numpy()[heads].astype(np.int64) if known else None,
        source=str(traces[0].parent),
    )


def phases_of(decisions: Decisions) -> NDArray[np.str_]:
    """The phase that each token was recorded in, str [T]: read from domains that end in one, else empty."""
    ending = np.char.rpartition(decisions.domain, ":")[:, 2]
    return np.where(np.isin(ending, ("prefill", "decode")), ending, "")


def accesses_of(decisions: Decisions, pass_of_token: Wholes, unit_of_token: Wholes) -> Accesses:
    """Make accesses of decisions.

    Parameters
    ----------
    decisions : Decisions
        Of T tokens.
    pass_of_token : numpy.ndarray
        int64 [T]: numbers of passes, from 0, all of which occur.
    unit_of_token : numpy.ndarray
        int64 [T]: numbers of units, from 0, all of which occur; ascending with the passes.
    """
    layers, width = decisions.experts.shape[1], decisions.width
    passes = int(pass_of_token.max()) + 1 if len(pass_of_token) else 0
    offsets, experts = distinct(decisions.experts, pass_of_token, passes, width)
    unit, tokens = np.zeros(passes, np.int64), np.bincount(pass_of_token, minlength=passes)
    unit[pass_of_token] = unit_of_token
    starts = np.append(True, np.diff(unit) != 0)[:passes]
    return Accesses(layers, width, offsets, experts, unit, tokens, starts)


def distinct(chosen: NDArray[np.int16], pass_of_token: Wholes, passes: int, width: int) -> tuple[Wholes, Wholes]:
    """Distinct experts of each layer of each pass: offsets, int64 [P * L + 1], and numbers of experts, int64 [N].

    Parameters
    ----------
    chosen : numpy.ndarray
        int16 [T, L, k]; E, or anything outside 0 to E - 1, where a slot is empty.
    pass_of_token : numpy.ndarray
        int64 [T].
    passes, width : int
        P and E.
    """
    order = np.argsort(pass_of_token, kind="stable")
    layers, tokens_of_pass = chosen.shape[1], np.bincount(pass_of_token, minlength=passes)
    offsets, experts = np.zeros(passes * layers + 1, np.int64), np.empty(chosen.size, np.int64)
    number = _distinct(chosen, order, tokens_of_pass, width, offsets, experts)
    return offsets, experts[:number].copy()


@compiled
def _distinct(
    chosen: NDArray[np.int16], order: Wholes, tokens_of_pass: Wholes, width: int, offsets: Wholes, experts: Wholes
) -> int:
    """Fill in offsets and numbers of experts; return how many there are."""
    layers, slots = chosen.shape[1:]
    seen = np.full(width, -1, np.int64)
    first, at, step = 0, 0, 0
    for number in range(len(tokens_of_pass)):
        last = first + tokens_of_pass[number]
        for layer in range(layers):
            begin = at
            for token in range(first, last):
                for slot in range(slots):
                    expert = chosen[order[token], layer, slot]
                    if expert < 0 or expert >= width or seen[expert] == step:
                        continue
                    seen[expert] = step
                    place = at
                    while place > begin and experts[place - 1] > layer * width + expert:
                        experts[place] = experts[place - 1]
                        place -= 1
                    experts[place] = layer * width + expert
                    at += 1
            step += 1
            offsets[step] = at
        first = last
    return at


def as_decode(decisions: Decisions, batch: int = 1) -> tuple[Wholes, Wholes]:
    """Passes and units of tokens that are decoded one a pass, or several sequences in step.

    Sequences are put together in their order; a batch goes on until its longest sequence ends.

    Returns
    -------
    pass_of_token, unit_of_token : numpy.ndarray
        int64 [T].
    """
    _, number = np.unique(decisions.sequence, return_inverse=True)
    begun = np.append(True, np.diff(number) != 0)[: len(number)]
    within = np.arange(len(number)) - np.maximum.accumulate(np.where(begun, np.arange(len(number)), 0))
    unit = number // batch
    longest = int(within.max()) + 1 if len(within) else 0
    _, passes = np.unique(unit * longest + within, return_inverse=True)
    return passes, unit


def as_prefill(decisions: Decisions) -> tuple[Wholes, Wholes]:
    """Passes and units where each sequence is one pass, int64 [T]."""
    _, number = np.unique(decisions.sequence, return_inverse=True)
    return number, number
