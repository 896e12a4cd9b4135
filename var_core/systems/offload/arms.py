"""What is decoded to compare ways to hold a model's experts, and the ways."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from var_core.errors import VarError
from var_core.systems.offload.prefetch import Predictor


@dataclass(frozen=True)
class Text:
    """What is decoded.

    Attributes
    ----------
    ids : torch.Tensor
        int64 [N, T]: sequences of equal length.
    batch : int
        Sequences that are decoded together; batches follow one another, with what is resident staying so.
    prompt : int
        Tokens that are given at once (the prefill); those behind them are fed one by one, whatever the model says.
    generate : int
        Tokens behind the sequence's end that the model chooses, greedily, and is fed.

    Raises
    ------
    VarError
        If a number is out of range.
    """

    ids: torch.Tensor
    batch: int = 1
    prompt: int = 1
    generate: int = 0

    def __post_init__(self) -> None:
        sequences, length = self.ids.shape
        for name, least, most in (("batch", 1, sequences), ("prompt", 1, length), ("generate", 0, None)):
            value = getattr(self, name)
            if value < least or (most is not None and value > most):
                limits = f"from {least} to {most}" if most is not None else f"{least} or more"
                raise VarError(f"{name}: {value}; for {sequences} sequences of {length} tokens it must be {limits}")

    @property
    def steps_behind_prompt(self) -> int:
        """Forward passes of decoding for a batch."""
        return self.ids.shape[1] + self.generate - self.prompt


@dataclass(frozen=True)
class Arm:
    """One way to hold the experts.

    Attributes
    ----------
    name : str
    capacity : int or None
        Experts that fit; None: all are resident, in the model as it was loaded.
    shared : bool
        Whether capacity is that of all layers together, or of each.
    predictor : callable or None
        Makes what says which experts to load beforehand, anew for every round; None: nothing does.
    """

    name: str
    capacity: int | None = None
    shared: bool = True
    predictor: Callable[[], Predictor] | None = None
