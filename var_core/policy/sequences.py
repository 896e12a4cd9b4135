"""What a forward pass says about the sequences it continues: what counts, where documents start, what was before."""

from dataclasses import dataclass
from typing import Any

import torch

from var_core.errors import VarError


@dataclass(frozen=True)
class Tokens:
    """The tokens of a forward pass.

    Attributes
    ----------
    ids : torch.Tensor
        int64 [S, T].
    counts : torch.Tensor
        bool [S, T]: False for padding.
    starts : torch.Tensor
        bool [S, T]: first tokens of documents.
    previous : torch.Tensor
        int64 [S, T]: the token id before each in its document; -1 for none.
    position : torch.Tensor
        int64 [S, T]: place in the document, padding not counted.
    sequence : torch.Tensor
        int64 [S], on the host: number of each row's sequence; every pass with nothing before it begins new ones.
    place : torch.Tensor
        int64 [S, T]: place in the sequence, padding not counted.
    """

    ids: torch.Tensor
    counts: torch.Tensor
    starts: torch.Tensor
    previous: torch.Tensor
    position: torch.Tensor
    sequence: torch.Tensor
    place: torch.Tensor


class Sequences:
    """Follows the S sequences of a batch through prefill and decoding.

    Parameters
    ----------
    first : int, optional
        Number of the first sequence.

    Attributes
    ----------
    next : int
        Number of the next sequence that begins.
    """

    def __init__(self, first: int = 0) -> None:
        if first < 0:
            raise VarError(f"first_sequence is {first}; sequences are numbered from 0")
        self._length, self.next = 0, first
        self._begun: torch.Tensor | None = None
        self._met = torch.zeros(0, dtype=torch.int64)
        self._last = torch.zeros(0, dtype=torch.int64)
        self._positions = torch.zeros(0, dtype=torch.int64)

    def read(self, keywords: dict[str, Any]) -> tuple[Tokens, bool]:
        """Read the arguments of the base model's forward.

        Returns
        -------
        Tokens
        bool
            Whether these are new sequences.

        Raises
        ------
        VarError
            If there are no token ids, or if the pass does not go on where the last one ended.
        """
        ids = keywords.get("input_ids")
        if ids is None:
            raise VarError("a policy needs token ids; call the model with input_ids, not with inputs_embeds")
        past = keywords.get("past_key_values")
        if past is not None and hasattr(past, "reorder_cache"):
            past.reorder_cache = _refuse_beams
        before = int(past.get_seq_length()) if past is not None else 0
        fresh = before == 0
        if fresh:
            self._check_anew(ids)
            self._last = ids.new_full((len(ids),), -1)
            self._positions, self._met = torch.zeros_like(self._last), torch.zeros_like(self._last)
            self.next += len(ids)
        elif before != self._length or len(ids) != len(self._last):
            raise VarError(
                f"a policy follows {len(self._last)} sequences of {self._length} tokens, and the model was called with "
                f"{len(ids)} that have {before} tokens behind them: beams, and drafts that are taken back, are not "
                "supported"
            )
        else:
            self._begun = None
        self._length = before + ids.shape[1]
        return self._tokens(ids.long(), *_masks(ids, keywords, fresh)), fresh

    def _check_anew(self, ids: torch.Tensor) -> None:
        """Refuse to take the same sequences with one more token for new ones, as generation without a cache has them.

        Looks at the tokens only where the shapes are such; so nobody waits for a device in vain.
        """
        last, self._begun = self._begun, ids
        if last is None or ids.shape != (len(last), last.shape[1] + 1):
            return
        if torch.equal(last.to(ids.device), ids[:, :-1]):
            raise VarError(
                "a policy would decide anew, and count again, about all tokens of every step: the model was called "
                "with the last pass's tokens and one more; generate with a cache (use_cache=True)"
            )

    def _tokens(self, ids: torch.Tensor, counts: torch.Tensor, starts: torch.Tensor) -> Tokens:
        length = ids.shape[1]
        place = torch.arange(length, device=ids.device).expand_as(ids)
        counted = torch.where(counts, place, -1).cummax(dim=1).values
        before = torch.cat((torch.full_like(counted[:, :1], -1), counted[:, :-1]), dim=1)
        previous = torch.where(before >= 0, ids.gather(1, before.clamp(min=0)), self._last[:, None])
        number = counts.long().cumsum(dim=1) - 1
        # Counted from where the document started: in this pass, or as many tokens ago as were met of it before.
        base = torch.where(starts & counts, number, torch.iinfo(torch.int64).min)
        base = torch.maximum(base.cummax(dim=1).values, -self._positions[:, None])
        position = number - base
        previous = torch.where(starts, -1, previous)
        last = counted[:, -1]
        any_counted = last >= 0
        at = last.clamp(min=0)[:, None]
        self._last = torch.where(any_counted, ids.gather(1, at)[:, 0], self._last)
        self._positions = torch.where(any_counted, position.gather(1, at)[:, 0] + 1, self._positions)
        met, self._met = self._met[:, None] + number, self._met + counts.sum(dim=1)
        sequence = torch.arange(self.next - len(ids), self.next)
        return Tokens(ids, counts, starts, previous, position, sequence, met)


def _refuse_beams(*arguments: Any, **keywords: Any) -> None:
    raise VarError("a policy follows sequences forward only; generate without beams (num_beams=1)")


def _masks(ids: torch.Tensor, keywords: dict[str, Any], fresh: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Which tokens count, and which start a document, bool [S, T]."""
    mask = keywords.get("attention_mask")
    counts = torch.ones_like(ids, dtype=torch.bool)
    if mask is not None:
        if not isinstance(mask, torch.Tensor) or mask.ndim != 2:
            raise VarError(
                "a policy has to see which tokens are padding, and the model is called with a mask that does not say "
                "so; give a mask of shape (sequences, tokens), and generate without a static cache"
            )
        counts = mask[:, -ids.shape[1] :].bool().to(ids.device)
    starts = torch.zeros_like(counts)
    positions = keywords.get("position_ids")
    if isinstance(positions, torch.Tensor) and positions.ndim == 2:
        # Only a new document sets the position back to 0.
        starts = (positions.to(ids.device) == 0).expand_as(ids) & counts
    if fresh:
        first = counts & (counts.long().cumsum(dim=1) == 1)
        starts = starts | first
    return counts, starts
