"""What every importer yields: the decisions of one recorded sequence, and the checks that all of them pass."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from var_core.errors import VarError

Ints = NDArray[np.int64]

_TOKEN_IDS = 1 << 31
"""Token ids are stored as 32-bit numbers."""


@dataclass(frozen=True)
class Shape:
    """What the configuration says of the model that was recorded.

    Attributes
    ----------
    experts, top_k : int
        E, and the slots k that were recorded of a decision.
    layers : int or None
        L; None where the files decide.
    moe_layers : tuple of int or None
        Which of the recorded layers have experts; None for all.
    model : str
        Name of the model in the configuration, for messages.
    vocabulary : int or None
        Token ids are below it; None: below 2**31.
    """

    experts: int
    top_k: int
    layers: int | None
    moe_layers: tuple[int, ...] | None
    model: str
    vocabulary: int | None = None

    def fault_of_token_ids(self, token_ids: Ints) -> tuple[int, str] | None:
        """Where the first token id stands that the model cannot have, and what is wrong with it; None if none is."""
        limit = min(_TOKEN_IDS, self.vocabulary or _TOKEN_IDS)
        wrong = (token_ids < 0) | (token_ids >= limit)
        if not wrong.any():
            return None
        at = int(np.argmax(wrong))
        if token_ids[at] < 0:
            return at, f"token id {token_ids[at]} is negative"
        known = f"the {limit} of models.{self.model}.vocabulary" if limit == self.vocabulary else "32 bits"
        return at, f"token id {token_ids[at]} is outside {known}"


@dataclass(frozen=True)
class Recording:
    """The decisions of T consecutive tokens at L layers.

    Attributes
    ----------
    name : str
        What the sequence is called, for people.
    group : str
        What must stay in one split: all recordings of a group are counted, or all are held out.
    domain : str
        Part of the corpus; prefill and decode are parts of their own.
    experts : int array, shape (T, L, k)
        E in the slots of a decision that gave the token to no expert; such a decision has no other slots.
    weights : float array, shape (T, L, k), or None
        Their weights; None where the source has none.
    token_ids : int array, shape (T,), or None
        None where the source has none.
    place : callable
        (token, layer) -> where in which file that decision stands, for messages.
    share_read : float
        How much of the domain's files has been read so far, 0 to 1.
    ordered : bool
        Whether a token follows the one before it; False where the source does not say which tokens belong together.
    """

    name: str
    group: str
    domain: str
    experts: Ints
    weights: NDArray[np.float32] | None
    token_ids: Ints | None
    place: Callable[[int, int], str]
    share_read: float
    ordered: bool = True


def check_recording(recording: Recording, shape: Shape) -> None:
    """Refuse a recording that cannot be what the configuration says.

    Raises
    ------
    VarError
        On the first decision that names an expert out of range or one expert twice, fills only some of its slots,
        or has a weight that is not a number, and on a token id that the model cannot have; the message names file
        and line or row.
    """
    experts, E = recording.experts, shape.experts
    layers = experts.shape[1]
    if shape.layers is not None and layers != shape.layers:
        raise VarError(
            f"{recording.place(0, 0)}: {layers} layers are recorded, but models.{shape.model}.layers is {shape.layers}"
        )
    ordered = np.sort(experts, axis=-1)
    empty = ordered == E
    _refuse(
        recording,
        (ordered[..., 0] < 0) | (ordered[..., -1] > E),
        lambda at: f"expert {_odd(experts[at], E)} is outside 0 to {E - 1} (models.{shape.model}.experts is {E})",
    )
    _refuse(
        recording,
        empty.any(axis=-1) & ~empty.all(axis=-1),
        lambda at: f"{int((experts[at] < E).sum())} experts where models.{shape.model}.top_k is {shape.top_k}",
    )
    _refuse(
        recording,
        np.asarray(((np.diff(ordered, axis=-1) == 0) & ~empty[..., 1:]).any(axis=-1)),
        lambda at: f"one decision names the same expert twice ({', '.join(map(str, experts[at]))})",
    )
    if recording.weights is not None:
        weights = recording.weights
        _refuse(
            recording,
            np.asarray(~np.isfinite(weights).all(axis=-1)),
            lambda at: f"a weight is not a finite number ({', '.join(map(str, weights[at]))})",
        )
    fault = None if recording.token_ids is None else shape.fault_of_token_ids(recording.token_ids)
    if fault is not None:
        raise VarError(f"{recording.place(fault[0], 0)}: {fault[1]}")


def _odd(experts: Ints, count: int) -> int:
    return int(experts[(experts < 0) | (experts > count)][0])


def _refuse(recording: Recording, wrong: np.ndarray, say: Callable[[tuple[int, int]], str]) -> None:
    """Raise for the first decision, in the order of tokens and layers, that is `wrong`."""
    if wrong.any():
        token, layer = (int(place) for place in np.unravel_index(int(np.argmax(wrong)), wrong.shape))
        raise VarError(f"{recording.place(token, layer)}: {say((token, layer))}")
