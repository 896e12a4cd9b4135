"""Going on when memory runs out: fewer sequences at once, and the same work again."""

import functools
import gc
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

from var_core.errors import VarError
from var_core.routing.batch import RoutedBatch

_LOGGER = logging.getLogger(__name__)
_CPU_ALLOCATOR = ("can't allocate memory", "not enough memory")
_Result = TypeVar("_Result")


class SpoiltStateError(Exception):
    """Memory ran out while statistics were being updated: the state may hold a part of a batch."""


class Halving:
    """How many sequences are worked on at once: as many as a batch has, until memory runs out.

    Pieces of a batch are other matrix sizes to the libraries that compute, so floats may come out different in their
    last digits; only where memory never ran out is a result byte for byte that of another run.

    Parameters
    ----------
    sequences : int
        Of a batch.
    length : int
        Tokens a sequence, for messages.
    device : torch.device
        Whose memory it is.
    """

    def __init__(self, sequences: int, length: int, device: torch.device) -> None:
        self.sequences = sequences
        self._length, self._device = length, device

    def pieces(self, rows: slice) -> list[slice]:
        """Cut rows into pieces of at most so many."""
        starts = range(rows.start, rows.stop, self.sequences)
        return [slice(start, min(start + self.sequences, rows.stop)) for start in starts]

    def map(self, work: Callable[[slice], _Result], rows: slice, what: str) -> list[_Result]:
        """Apply `work`, which must change nothing, to all rows in pieces; a piece that is too large is cut.

        Parameters
        ----------
        work : callable
            Takes a slice of rows.
        rows : slice
            All rows.
        what : str
            What `work` is, for messages.

        Returns
        -------
        list
            What `work` returned for the pieces, in order.

        Raises
        ------
        VarError
            If memory runs out over a single sequence.
        """
        results: list[_Result] = []
        start = rows.start
        while start < rows.stop:
            piece = slice(start, min(start + self.sequences, rows.stop))
            result = _unless_out_of_memory(functools.partial(work, piece))
            # Halved only here, where the error is gone and with it the frames that hold what was allocated.
            if result is None:
                self.halve(piece.stop - piece.start, what)
            else:
                results += result
                start = piece.stop
        return results

    def halve(self, tried: int, what: str) -> None:
        """Take half of the `tried` sequences from here on.

        Raises
        ------
        VarError
            If it was one.
        """
        if tried == 1:
            raise _too_little(f"memory of {self._device} ran out in {what} over 1 sequence of {self._length} tokens")
        self.sequences = tried // 2
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        _LOGGER.warning(
            "memory of %s ran out in %s over %d sequences; repeated with %d, and so from here on (floats may differ in "
            "their last digits from a run with enough memory); lower capture.batch_sequences to save the attempts",
            self._device, what, tried, self.sequences,
        )  # fmt: skip


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or in the machine."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _CPU_ALLOCATOR)


@contextmanager
def out_of_memory_in_one_line(what: str) -> Iterator[None]:
    """Say in one line what to do when memory runs out where nothing can be halved.

    Raises
    ------
    VarError
        If it did, in `what`.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise _too_little(f"memory ran out in {what}") from None


def _too_little(where: str) -> VarError:
    return VarError(
        f"{where}; lower sequences.length, load the model in a narrower dtype (models.<name>.dtype), choose another "
        "capture.device, or limit the statistics (capture.max_state_mb); fewer capture.batch_sequences would not help"
    )


def _unless_out_of_memory(work: Callable[[], _Result]) -> list[_Result] | None:
    """Do some work; return its result in a list, or None if memory ran out."""
    try:
        return [work()]
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return None


def joined(batches: list[RoutedBatch]) -> RoutedBatch:
    """Put the decisions of pieces, in order, together again."""
    if len(batches) == 1:
        return batches[0]

    def along_tokens(parts: list[torch.Tensor | None]) -> torch.Tensor | None:
        held = [part for part in parts if part is not None]
        return torch.cat(held, dim=1) if held else None

    return RoutedBatch(
        logits=along_tokens([batch.logits for batch in batches]),
        experts=torch.cat([batch.experts for batch in batches], dim=1),
        weights=along_tokens([batch.weights for batch in batches]),
    )


def joined_if_it_fits(batches: list[RoutedBatch]) -> list[RoutedBatch]:
    """Put the decisions of pieces together again, or leave them as they are if memory runs out over that.

    In pieces, decisions are counted as well, but their order is shuffled within pieces, not within the batch.
    """
    whole = _unless_out_of_memory(lambda: joined(batches))
    if whole is None:
        _LOGGER.info("memory ran out in joining the decisions of %d pieces; they are counted one by one", len(batches))
        return batches
    return whole


def of_tokens(batch: RoutedBatch, tokens: slice) -> RoutedBatch:
    """The decisions of some of a batch's tokens."""
    return RoutedBatch(
        logits=None if batch.logits is None else batch.logits[:, tokens],
        experts=batch.experts[:, tokens],
        weights=None if batch.weights is None else batch.weights[:, tokens],
    )
