"""The passes that a trace is replayed as: decoded alone or in batches, prefilled, or in the order of the recording."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from var_core.systems.accesses import Accesses, Decisions, Phase, Wholes, accesses_of, as_decode, as_prefill, phases_of


@dataclass(frozen=True)
class Stream:
    """Passes of a trace, and what is counted of them.

    Attributes
    ----------
    phase : str
    batch : int
        Sequences decoded together; 1 for prefill.
    recorded : bool
        Whether the passes are those of the recording, not of text that is replayed as if it were decoded.
    decisions : Decisions
        Of T tokens, in the order of the passes.
    pass_of_token : numpy.ndarray
        int64 [T].
    decoded : numpy.ndarray
        bool [T]: tokens that are decoded, and not read with others in one pass.
    accesses : Accesses
    counted : numpy.ndarray
        bool [U]: units of the phase; the others only leave the cache as they do.
    cluster : numpy.ndarray
        int64 [U]: units of one cluster depend on each other.
    """

    phase: Phase
    batch: int
    recorded: bool
    decisions: Decisions
    pass_of_token: Wholes
    decoded: NDArray[np.bool_]
    accesses: Accesses
    counted: NDArray[np.bool_]
    cluster: Wholes

    @property
    def counted_tokens(self) -> NDArray[np.bool_]:
        """Tokens of the units that are counted, bool [T]."""
        return self.counted[self.accesses.unit[self.pass_of_token]]


def streams_of(decisions: Decisions, groups: Wholes, batches: Sequence[int]) -> Iterator[Stream]:
    """Yield the streams of a trace.

    Parameters
    ----------
    decisions : Decisions
    groups : numpy.ndarray
        int64: group of each document, by its number.
    batches : sequence of int
        Sequences that are decoded together.
    """
    phases = phases_of(decisions)
    if (phases != "").all():
        yield from _as_recorded(decisions, phases, groups)
        return
    for batch in batches:
        passes, unit = as_decode(decisions, batch)
        order = np.argsort(passes, kind="stable")
        yield _stream("decode", batch, decisions.of(order), passes[order], unit[order], groups)
    passes, unit = as_prefill(decisions)
    yield _stream("prefill", 1, decisions, passes, unit, groups)


def _stream(phase: Phase, batch: int, decisions: Decisions, passes: Wholes, unit: Wholes, groups: Wholes) -> Stream:
    accesses = accesses_of(decisions, passes, unit)
    everything = np.ones(accesses.units, np.bool_)
    decoded = np.full(len(decisions), phase == "decode")
    cluster = clusters_of(unit, groups[decisions.document])
    return Stream(phase, batch, False, decisions, passes, decoded, accesses, everything, cluster)


def _as_recorded(decisions: Decisions, phases: NDArray[np.str_], groups: Wholes) -> Iterator[Stream]:
    """A prompt is one pass, and each token of what follows it; a cache is cold where a prompt begins."""
    order = np.lexsort((decisions.place, decisions.sequence, decisions.document))
    decisions, prefill = decisions.of(order), phases[order] == "prefill"
    new_document = np.append(True, np.diff(decisions.document) != 0)
    passes = np.cumsum(new_document | ~prefill) - 1
    unit = np.cumsum(new_document) - 1
    accesses = accesses_of(decisions, passes, unit)
    heads = np.flatnonzero(new_document)
    own_group = groups[decisions.document[heads]]
    # What is decoded goes on from its own prompt.
    goes_on = ~prefill[heads] & np.append(False, prefill[heads][:-1] & (np.diff(own_group) == 0))
    accesses = accesses.restarting_at(~goes_on[accesses.unit] & accesses.starts)
    for phase in ("decode", "prefill"):
        counted = prefill[heads] == (phase == "prefill")
        if counted.any():
            cluster = clusters_of(unit, groups[decisions.document])
            yield Stream(phase, 1, True, decisions, passes, ~prefill, accesses, counted, cluster)


def clusters_of(unit: Wholes, group: Wholes) -> Wholes:
    """Clusters of units that share groups of documents, directly or by others: int64 [U].

    Parameters
    ----------
    unit, group : numpy.ndarray
        int64 [T], of each token.
    """
    pairs = np.unique(np.stack([unit, group]), axis=1)
    units = int(unit.max()) + 1
    _, number = np.unique(pairs[1], return_inverse=True)
    nodes = units + int(number.max()) + 1
    graph = coo_array((np.ones(len(number)), (pairs[0], units + number)), shape=(nodes, nodes))
    _, labels = connected_components(graph, directed=False)
    _, cluster = np.unique(labels[:units], return_inverse=True)
    return cluster.astype(np.int64)
