"""From documents' tokens to sequences of fixed length: one document after another, no padding.

Tokens of each domain are joined into one line, and the line is cut every `length` tokens; what is left at
its end is shorter than a sequence and is dropped. A document that does not end at a cut goes on in the next
sequence. The line of a domain lies on disk, so memory does not grow with the corpus.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from var_core.corpus.tokenise import TokenBatch


@dataclass(frozen=True, eq=False)
class PackedDomain:
    """The sequences of one domain in one split.

    Attributes
    ----------
    length : int
        Tokens a sequence, T.
    tokens : ndarray of int32, shape (tokens,)
        All tokens, also those that are dropped at the end.
    documents : ndarray of int32, shape (documents,)
        Numbers of the documents, in order.
    ends : ndarray of int64, shape (documents,)
        Where each document ends in `tokens`.
    """

    length: int
    tokens: NDArray[np.int32]
    documents: NDArray[np.int32]
    ends: NDArray[np.int64]

    @property
    def sequences(self) -> int:
        """Number of whole sequences."""
        return len(self.tokens) // self.length

    @property
    def dropped(self) -> int:
        """Tokens at the end that do not fill a sequence."""
        return len(self.tokens) % self.length

    def rows(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Return some sequences.

        Parameters
        ----------
        indices : ndarray of int64, shape (S,)
            Sequences, each below :attr:`sequences`.

        Returns
        -------
        input_ids : ndarray of int32, shape (S, T)
        document : ndarray of int32, shape (S, T)
            For every token the number of its document.
        """
        whole = self.tokens[: self.sequences * self.length].reshape(-1, self.length)
        places = indices[:, None] * self.length + np.arange(self.length)
        owners = np.searchsorted(self.ends, places, side="right")
        return np.asarray(whole[indices]), self.documents[owners]


def pack(batches: Iterable[TokenBatch], length: int, scratch: Path) -> dict[str, PackedDomain]:
    """Pack tokenised documents into sequences, domain by domain.

    Parameters
    ----------
    batches : iterable of TokenBatch
        Documents of one split; the order within a domain is kept.
    length : int
        Tokens a sequence.
    scratch : Path
        Folder for the tokens, 4 bytes each; the result reads from it, so remove it afterwards.

    Returns
    -------
    dict
        Domain -> its sequences, sorted by domain.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    files: dict[str, Path] = {}
    documents: dict[str, list[NDArray[np.int32]]] = {}
    lengths: dict[str, list[NDArray[np.int64]]] = {}
    for batch in batches:
        known = batch.domain in files
        path = files.setdefault(batch.domain, scratch / f"{len(files)}.tokens")
        with path.open("ab" if known else "wb") as stream:
            stream.write(np.ascontiguousarray(batch.tokens, dtype=np.int32).data)
        documents.setdefault(batch.domain, []).append(batch.documents)
        lengths.setdefault(batch.domain, []).append(batch.lengths)
    return {
        domain: PackedDomain(
            length,
            _mapped(files[domain]),
            np.concatenate(documents[domain]),
            np.cumsum(np.concatenate(lengths[domain])),
        )
        for domain in sorted(files)
    }


def _mapped(path: Path) -> NDArray[np.int32]:
    """Map a file of tokens into memory (an empty file cannot be mapped)."""
    if not path.stat().st_size:
        return np.empty(0, dtype=np.int32)
    return np.memmap(path, dtype=np.int32, mode="r")
