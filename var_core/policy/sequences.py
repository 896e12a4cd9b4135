"""What a forward pass says about the sequences it continues: what counts, where documents start, what was before."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from var_core.errors import VarError
from var_core.statistics.compiled import Flags, Wholes, compiled


@dataclass(frozen=True)
class Tokens:
    """The tokens of a forward pass, on the host: what follows from them is worked out there, once a pass.

    Attributes
    ----------
    ids : torch.Tensor
        int64 [S, T].
    counts : torch.Tensor
        bool [S, T]: False for padding.
    starts : torch.Tensor
        bool [S, T]: first tokens of documents.
    previous : torch.Tensor
        int64 [S, T]: the token id before each in its document; -1 for none, and for padding.
    position : torch.Tensor
        int64 [S, T]: place in the document, padding not counted; its own is -1.
    sequence : torch.Tensor
        int64 [S]: number of each row's sequence; every pass with nothing before it begins new ones.
    place : torch.Tensor
        int64 [S, T]: place in the sequence, likewise.
    """

    ids: torch.Tensor
    counts: torch.Tensor
    starts: torch.Tensor
    previous: torch.Tensor
    position: torch.Tensor
    sequence: torch.Tensor
    place: torch.Tensor

    def contexts(self, recent: torch.Tensor) -> torch.Tensor:
        """What each token's decision is remembered by: the last token ids of its document, its own the last of them.

        Parameters
        ----------
        recent : torch.Tensor
            int64 [S, W - 1]: last token ids of each sequence before this pass, on the host; -1 for none.

        Returns
        -------
        torch.Tensor
            int64 [S * T, W]; -1 before the document's start, and for padding.
        """
        before, counts = recent.shape[1], self.counts
        # Padding moved to the end of each row, so that what precedes a token stands before it.
        order = (~counts).to(torch.int8).argsort(dim=1, stable=True)
        known = torch.cat((recent, self.ids.gather(1, order)), dim=1)
        back = torch.arange(before, -1, -1)
        place = (before + counts.cumsum(dim=1) - 1)[:, :, None] - back
        found = known.gather(1, place.clamp_min(0).flatten(1)).view(place.shape)
        return found.masked_fill(back > self.position[:, :, None], -1).flatten(0, 1)


@dataclass(frozen=True)
class Endings:
    """What ends a sequence that a model writes, and what it is fed from then on.

    Attributes
    ----------
    ends, fillers : tuple of int
        Token ids; one may be both.
    """

    ends: tuple[int, ...] = ()
    fillers: tuple[int, ...] = ()

    @classmethod
    def of(cls, model: Any) -> "Endings":
        """As a model's configuration of generation says."""
        config = getattr(model, "generation_config", None)
        ends = getattr(config, "eos_token_id", None)
        filler = getattr(config, "pad_token_id", None)
        listed = () if ends is None else tuple(int(each) for each in ([ends] if isinstance(ends, int) else ends))
        return cls(listed, () if filler is None else (int(filler),))


class Sequences:
    """Follows the S sequences of a batch through prefill and decoding.

    What a batch's finished rows are fed while others go on is padding, though the model is told that it counts: in
    passes of one token a sequence, with others before it, ends and fillers behind an end. Elsewhere, as in prompts and
    packed text, these are tokens like any other.

    Parameters
    ----------
    first : int, optional
        Number of the first sequence.
    endings : Endings, optional
        Tokens that end a sequence, and that fill it up behind its end; none are known by default.

    Attributes
    ----------
    next : int
        Number of the next sequence that begins.
    """

    def __init__(self, first: int = 0, endings: Endings = Endings()) -> None:
        if first < 0:
            raise VarError(f"first_sequence is {first}; sequences are numbered from 0")
        self._length, self.next = 0, first
        self._begun: torch.Tensor | None = None
        self._ends = np.array(endings.ends, np.int64)
        self._behind = np.array([*endings.ends, *endings.fillers], np.int64)
        self._ended = np.zeros(0, np.bool_)
        # Of each sequence: tokens met, the last of them, and the next one's place in its document.
        self._met, self._last, self._positions = np.zeros((3, 0), np.int64)

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
            self._met, self._last, self._positions = np.zeros((3, len(ids)), np.int64)
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
        return self._tokens(ids, keywords), fresh

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

    def _tokens(self, ids: torch.Tensor, keywords: dict[str, Any]) -> Tokens:
        counts, positions = _mask(ids, keywords), keywords.get("position_ids")
        if not (isinstance(positions, torch.Tensor) and positions.ndim == 2):
            positions = torch.ones_like(ids)
        parts = (part.expand_as(ids).to(ids.device, torch.int64) for part in (ids, positions, counts))
        # One transfer, the only one that a policy without a budget makes for its bookkeeping.
        host = torch.stack(list(parts)).cpu()
        token_ids, given_positions, counted = host.numpy()
        self._leave_out_endings(token_ids, counted)
        starts = np.zeros(ids.shape, np.bool_)
        previous, position, number = np.full((3, *ids.shape), -1, np.int64)
        _follow(
            token_ids,
            given_positions,
            counted,
            self._last,
            self._positions,
            self._met,
            starts,
            previous,
            position,
            number,
        )
        sequence = torch.arange(self.next - len(ids), self.next)
        own = [torch.from_numpy(part) for part in (starts, previous, position)]
        return Tokens(host[0], host[2].bool(), own[0], own[1], own[2], sequence, torch.from_numpy(number))

    def _leave_out_endings(self, token_ids: Wholes, counted: Wholes) -> None:
        """Take what finished sequences are fed for padding; `counted` is changed."""
        length = token_ids.shape[1]
        if self._length == length or length > 1:
            self._ended = np.zeros(len(token_ids), np.bool_)
        elif self._ends.size:
            filled = self._ended & np.isin(token_ids[:, 0], self._behind)
            counted[:, 0] &= ~filled
            self._ended = filled | np.isin(token_ids[:, 0], self._ends)


@compiled
def _follow(
    token_ids: Wholes,
    given_positions: Wholes,
    counts: Wholes,
    last: Wholes,
    positions: Wholes,
    met: Wholes,
    starts: Flags,
    previous: Wholes,
    position: Wholes,
    place: Wholes,
) -> None:
    """Go on with each sequence's last token, place in its document and place; fill in those of its new tokens."""
    for sequence in range(len(token_ids)):
        for at in range(token_ids.shape[1]):
            if not counts[sequence, at]:
                continue
            # Only a new document sets the position back to 0.
            if given_positions[sequence, at] == 0 or met[sequence] == 0:
                starts[sequence, at] = True
                last[sequence], positions[sequence] = -1, 0
            previous[sequence, at] = last[sequence]
            position[sequence, at] = positions[sequence]
            place[sequence, at] = met[sequence]
            last[sequence] = token_ids[sequence, at]
            positions[sequence] += 1
            met[sequence] += 1


def _refuse_beams(*arguments: Any, **keywords: Any) -> None:
    raise VarError("a policy follows sequences forward only; generate without beams (num_beams=1)")


def _mask(ids: torch.Tensor, keywords: dict[str, Any]) -> torch.Tensor:
    """Which tokens count, [S, T]."""
    mask = keywords.get("attention_mask")
    if mask is None:
        return torch.ones_like(ids)
    if not isinstance(mask, torch.Tensor) or mask.ndim != 2:
        raise VarError(
            "a policy has to see which tokens are padding, and the model is called with a mask that does not say so; "
            "give a mask of shape (sequences, tokens), and generate without a static cache"
        )
    return mask[:, -ids.shape[1] :].bool()
