"""Which sequences policies are evaluated on, and which of them depend on each other."""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from var_core.corpus.shards import TokenShard
from var_core.errors import VarError
from var_core.hypotheses.resampling import generator
from var_core.parquet import read_table


@dataclass(frozen=True)
class Text:
    """Packed sequences that nothing was fitted on: S of T tokens.

    Attributes
    ----------
    input_ids, document : numpy.ndarray
        int [S, T].
    isolate_documents : bool
    batch_sequences : int
        Sequences a forward pass.
    sequence : numpy.ndarray
        int64 [S]: their numbers in the split.
    cluster : numpy.ndarray
        int64 [S]: sequences of different clusters have no group of documents in common.
    domain : numpy.ndarray
        str [S].
    scored : numpy.ndarray
        bool [S, T]: tokens whose losses and decisions count; the others are their context.
    """

    input_ids: NDArray[np.integer]
    document: NDArray[np.integer]
    isolate_documents: bool
    batch_sequences: int
    sequence: NDArray[np.int64]
    cluster: NDArray[np.int64]
    domain: NDArray[np.str_]
    scored: NDArray[np.bool_]

    @classmethod
    def of(
        cls,
        input_ids: NDArray[np.integer],
        document: NDArray[np.integer],
        isolate_documents: bool = True,
        batch_sequences: int = 8,
    ) -> "Text":
        """Sequences of one domain that have nothing to do with each other."""
        numbers = np.arange(len(input_ids))
        return cls(
            input_ids, document, isolate_documents, batch_sequences, numbers, numbers, np.full(len(numbers), "text"),
            np.ones(input_ids.shape, np.bool_),
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.input_ids)

    def rows(self, chosen: slice | NDArray[np.generic]) -> "Text":
        """Some of the sequences."""
        parts = ("input_ids", "document", "sequence", "cluster", "domain", "scored")
        return replace(self, **{name: getattr(self, name)[chosen] for name in parts})


@dataclass(frozen=True)
class Selection:
    """How sequences are selected from a split.

    Attributes
    ----------
    most : int
        Sequences at most.
    per_cluster : int
        Sequences of a cluster at most.
    seed : int
    domain : str or None, optional
        Only this domain.
    stride : int or None, optional
        Tokens that windows move on by; None: each sequence is one window.
    """

    most: int
    per_cluster: int
    seed: int
    domain: str | None = None
    stride: int | None = None


def select_text(
    shards: Sequence[Path], documents: Path, selection: Selection, isolate_documents: bool, batch_sequences: int
) -> Text:
    """Draw sequences of a split at random, in clusters that have no group of documents in common.

    Documents of a group (a book's chapters, a package's modules) resemble each other, and a document may run over
    several sequences, so only sequences without a common group are independent. A drawn sequence that would join two
    clusters, or make one larger than is allowed, is passed over; the size of clusters is thus bounded before any text
    is looked at, as bounds on means over them need.

    Parameters
    ----------
    shards : sequence of Path
        Of a split, in order.
    documents : Path
        ``documents.parquet`` of the corpus.
    selection : Selection
    isolate_documents : bool
    batch_sequences : int

    Raises
    ------
    VarError
        If the split has no sequences (of that domain), or windows cannot move on by that stride.
    """
    parts = [TokenShard(path) for path in shards]
    domains = np.concatenate([part.domain for part in parts])
    eligible = np.flatnonzero(domains == selection.domain) if selection.domain else np.arange(len(domains))
    if not len(eligible):
        raise VarError(f"{shards[0].parent}: the split has no sequences of domain {selection.domain}; pack it again")
    own = [_rows_of(part) for part in parts]
    ids, document, sequence = (
        np.concatenate([rows[name] for rows in own]) for name in ("input_ids", "document", "sequence")
    )
    before = np.full(len(ids), -1)
    if selection.stride is not None:
        _check_stride(selection.stride, parts[0])
        before = _before(sequence, domains)
    order = generator(selection.seed, "sequences", selection.domain).permutation(eligible)
    groups = group_numbers(documents)
    both = (
        np.concatenate([document[row], document[before[row]] if before[row] >= 0 else document[row]]) for row in order
    )
    chosen, cluster = independent_clusters((np.unique(groups[each]) for each in both), selection)
    again = np.argsort(order[chosen])
    kept = order[chosen][again]
    found = Text(
        ids[kept], document[kept], isolate_documents, batch_sequences, sequence[kept].astype(np.int64),
        cluster[again], domains[kept].astype(str), np.ones(ids[kept].shape, np.bool_),
    )  # fmt: skip
    if selection.stride is None:
        return found
    return _windows(
        found, np.where(before[kept, None] >= 0, ids[before[kept]], -1), document[before[kept]], selection.stride
    )


def _check_stride(stride: int, shard: TokenShard) -> None:
    if stride >= shard.length or shard.length % stride:
        raise VarError(
            f"evaluation.stride: {stride} does not divide sequences.length ({shard.length}) into windows; take a half "
            "or a quarter of it"
        )
    limits = shard.provenance["config"].get("max_tokens", {})
    if limits.get(shard.provenance["split"]) is not None:
        raise VarError(
            f"evaluation.stride: the {shard.provenance['split']} split was thinned out by max_tokens, so that what "
            "comes before a sequence is not there; set that limit to null, or evaluation.stride"
        )


def _before(sequence: NDArray[np.integer], domains: NDArray[np.object_]) -> NDArray[np.int64]:
    """Row of what comes before each sequence in the text of its domain; -1 where a micro-shard begins with it."""
    before = np.arange(len(sequence)) - 1
    continued = np.concatenate([[False], (np.diff(sequence) == 1) & (domains[1:] == domains[:-1])])
    return np.where(continued, before, -1)


def _windows(text: Text, ids: NDArray[np.integer], document: NDArray[np.integer], stride: int) -> Text:
    """Windows that end every `stride` tokens of each sequence, with what came before it, `ids` and `document`, [S, T].

    Where nothing came before (-1), windows begin with the sequence: tokens behind those that are scored change nothing.
    """
    length = text.input_ids.shape[1]
    number = length // stride
    rows = np.repeat(np.arange(len(text)), number)
    end = np.tile(np.arange(1, number + 1) * stride, len(text))
    preceded = ids[rows, 0] >= 0
    start = np.where(preceded, end, length)  # in the two sequences, one after the other
    place = start[:, None] + np.arange(length)
    both = [np.concatenate(pair, axis=1)[rows] for pair in ((ids, text.input_ids), (document, text.document))]
    input_ids, documents = (np.take_along_axis(part, place, axis=1) for part in both)
    last = np.where(preceded, length, end)[:, None]
    scored = (np.arange(length) < last) & (np.arange(length) >= last - stride)
    return replace(
        text,
        input_ids=input_ids,
        document=documents,
        scored=scored,
        sequence=text.sequence[rows] * number + end // stride - 1,
        cluster=text.cluster[rows],
        domain=text.domain[rows],
    )


def independent_clusters(
    groups: Iterable[NDArray[np.int64]], selection: Selection
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Take sequences one after another into clusters that share no group.

    Parameters
    ----------
    groups : iterable of numpy.ndarray
        The groups that each sequence has text of; read only as far as sequences are still wanted.
    selection : Selection

    Returns
    -------
    chosen, cluster : numpy.ndarray
        int64 [N]: places of the sequences taken, and the cluster of each.
    """
    owner: dict[int, int] = {}
    sizes: list[int] = []
    chosen: list[int] = []
    cluster: list[int] = []
    for place, own in enumerate(groups):
        if len(chosen) == selection.most:
            break
        met = {owner[group] for group in own.tolist() if group in owner}
        if len(met) > 1 or any(sizes[each] >= selection.per_cluster for each in met):
            continue
        number = met.pop() if met else len(sizes)
        if number == len(sizes):
            sizes.append(0)
        sizes[number] += 1
        owner.update(dict.fromkeys(own.tolist(), number))
        chosen.append(place)
        cluster.append(number)
    return np.array(chosen, np.int64), np.array(cluster, np.int64)


def _rows_of(shard: TokenShard) -> dict[str, NDArray[np.integer]]:
    domains = shard.domain
    borders = [0, *(np.flatnonzero(domains[1:] != domains[:-1]) + 1).tolist(), len(domains)]
    pieces = [shard.rows(start, stop) for start, stop in itertools.pairwise(borders) if start < stop]
    return {
        name: np.concatenate([getattr(piece, name) for piece in pieces])
        for name in ("input_ids", "document", "sequence")
    }


def group_numbers(documents: Path) -> NDArray[np.int64]:
    """Number of the group of each document, by the document's number."""
    table = read_table(documents, columns=["document", "group"])
    numbers = np.full(int(table["document"].to_numpy().max()) + 1, -1, np.int64)
    numbers[table["document"].to_numpy()] = table["group"].combine_chunks().dictionary_encode().indices.to_numpy()
    return numbers
