"""Which sequences policies are evaluated on, and which of them depend on each other."""

import itertools
from collections.abc import Sequence
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
    """

    input_ids: NDArray[np.integer]
    document: NDArray[np.integer]
    isolate_documents: bool
    batch_sequences: int
    sequence: NDArray[np.int64]
    cluster: NDArray[np.int64]
    domain: NDArray[np.str_]

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
            input_ids, document, isolate_documents, batch_sequences, numbers, numbers, np.full(len(numbers), "text")
        )

    def __len__(self) -> int:
        return len(self.input_ids)

    def rows(self, chosen: slice | NDArray[np.generic]) -> "Text":
        """Some of the sequences."""
        parts = ("input_ids", "document", "sequence", "cluster", "domain")
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
    """

    most: int
    per_cluster: int
    seed: int
    domain: str | None = None


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
        If the split has no sequences (of that domain).
    """
    parts = [TokenShard(path) for path in shards]
    starts = np.cumsum([0, *(len(part.domain) for part in parts)])
    domains = np.concatenate([part.domain for part in parts])
    eligible = np.flatnonzero(domains == selection.domain) if selection.domain else np.arange(len(domains))
    if not len(eligible):
        raise VarError(f"{shards[0].parent}: the split has no sequences of domain {selection.domain}; pack it again")
    own = [_rows_of(part) for part in parts]
    columns = [np.concatenate([rows[name] for rows in own]) for name in ("input_ids", "document", "sequence")]
    assert len(columns[2]) == starts[-1]
    order = generator(selection.seed, "sequences", selection.domain).permutation(eligible)
    chosen, cluster = independent_clusters(
        [np.unique(groups) for groups in _group_numbers(documents)[columns[1][order]]], selection
    )
    kept = order[chosen]
    again = np.argsort(kept)
    kept = kept[again]
    return Text(
        columns[0][kept], columns[1][kept], isolate_documents, batch_sequences,
        columns[2][kept].astype(np.int64), np.asarray(cluster, np.int64)[again], domains[kept].astype(str),
    )  # fmt: skip


def independent_clusters(
    groups: Sequence[NDArray[np.int64]], selection: Selection
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Take sequences one after another into clusters that share no group.

    Parameters
    ----------
    groups : sequence of numpy.ndarray
        The groups that each sequence has text of.
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


def _group_numbers(documents: Path) -> NDArray[np.int64]:
    """Number of the group of each document, by the document's number."""
    table = read_table(documents, columns=["document", "group"])
    numbers = np.full(int(table["document"].to_numpy().max()) + 1, -1, np.int64)
    numbers[table["document"].to_numpy()] = table["group"].combine_chunks().dictionary_encode().indices.to_numpy()
    return numbers
