"""Packed sequences of several domains under one numbering."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from var_core.corpus.dealing import evenly_spread, quotas
from var_core.corpus.packing import PackedDomain


class Sequences:
    """The sequences of several domains, numbered domain after domain.

    Parameters
    ----------
    domains : mapping
        Domain -> its sequences, all of the same length.

    Attributes
    ----------
    domain : numpy.ndarray
        Domain of every sequence, object [S].
    """

    def __init__(self, domains: Mapping[str, PackedDomain]) -> None:
        self._parts = list(domains.values())
        self._sizes = {domain: part.sequences for domain, part in domains.items()}
        self._starts = np.cumsum([0, *self._sizes.values()])
        self.domain = np.repeat(np.array(list(domains), dtype=object), list(self._sizes.values()))

    def __len__(self) -> int:
        return int(self._starts[-1])

    def spread(self, limit: int) -> npt.NDArray[np.int64]:
        """Numbers of at most `limit` sequences: the same share of every domain, at even distances."""
        kept = quotas(self._sizes, limit)
        chosen = [
            start + evenly_spread(self._sizes[domain], count)
            for start, (domain, count) in zip(self._starts[:-1], kept.items(), strict=True)
        ]
        return np.concatenate(chosen)

    def rows(self, numbers: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        """Token ids and documents of some sequences, each int32 [len(numbers), T], in the order asked for."""
        part_of = np.searchsorted(self._starts, numbers, side="right") - 1
        length = self._parts[0].length
        input_ids, document = (np.empty((len(numbers), length), dtype=np.int32) for _ in range(2))
        for index in np.unique(part_of):
            here = part_of == index
            input_ids[here], document[here] = self._parts[index].rows(numbers[here] - self._starts[index])
        return input_ids, document


def all_tokens(domains: Mapping[str, PackedDomain]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """All tokens, with those that fill no sequence, and the document of each; both int32 [N]."""
    parts = list(domains.values())
    tokens = np.concatenate([part.tokens for part in parts])
    document = np.concatenate([np.repeat(part.documents, np.diff(part.ends, prepend=0)) for part in parts])
    return tokens, document
