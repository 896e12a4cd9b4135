"""Reading one MoE layer's decision from what its modules are given and return: the contract that families share.

A reader says what to watch, turns what was watched into a decision, and runs the chosen experts one at a time, so that
a decision can be checked against what the layer computed.
"""

import inspect
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from var_core.errors import VarError

if TYPE_CHECKING:
    from var_core.routing.sites import Site


@dataclass(frozen=True)
class Decision:
    """One layer's decisions for T tokens.

    Attributes
    ----------
    logits : torch.Tensor
        [T, E].
    experts : torch.Tensor
        [T, k]; E where a slot is empty.
    weights : torch.Tensor
        [T, k].
    """

    logits: torch.Tensor
    experts: torch.Tensor
    weights: torch.Tensor


@dataclass(frozen=True)
class Call:
    """One call of a module: what it was given and what it returned."""

    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    output: Any


@dataclass(frozen=True)
class Parameter:
    """A parameter of a forward: where it is among positional arguments, and its name."""

    position: int
    name: str

    @classmethod
    def of(cls, module: nn.Module, name: str) -> "Parameter":
        """Look it up in the forward of the module's class (an instance's forward may be wrapped)."""
        names = list(inspect.signature(type(module).forward).parameters)
        return cls(names.index(name) - 1, name)

    def read(self, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        """Value that a call gave it."""
        return arguments[self.position] if len(arguments) > self.position else keywords[self.name]

    def replaced(
        self, arguments: tuple[Any, ...], keywords: dict[str, Any], value: Any
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """A call's arguments with another value for it."""
        if len(arguments) > self.position:
            return (*arguments[: self.position], value, *arguments[self.position + 1 :]), keywords
        return arguments, {**keywords, self.name: value}


class Reader(ABC):
    """How one layer's decision is read.

    Attributes
    ----------
    given : tuple of Parameter
        What to watch of the calls of the experts: the parameters for indices and weights; empty to watch only what
        the router returns.
    checked : str
        The module whose output recombined experts must equal: ``"experts"`` or ``"router"``.
    unforceable : str or None
        Why a decision cannot be forced; None if it can.
    runs_first : bool
        Whether the layer runs before others of its block, whatever the order in which they are registered.
    """

    given: tuple[Parameter, ...] = ()
    checked: str = "experts"
    unforceable: str | None = None
    runs_first: bool = False

    @classmethod
    def for_class(cls, name: str) -> "Reader":
        """Make the reader for a class of experts of a family with an adapter."""
        return cls()

    @abstractmethod
    def decode(self, site: "Site", given: tuple[torch.Tensor, ...], output: Any) -> Decision:
        """Turn what the experts were given and what the router returned into a decision; no synchronisation."""

    @abstractmethod
    def recombine(
        self, site: "Site", decision: Decision, router: Call, checked: Call
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What the layer computed, and the weighted sum of single experts that it must equal."""


class ContractReader(Reader):
    """The contract of 67 families: ``experts(hidden, index, weights)`` beside a router that returns the logits.

    Parameters
    ----------
    index, weight : Parameter
        The parameters that carry the decision.
    logits_index : int
        Which item of the router's output holds the logits, if the output is a tuple.
    """

    def __init__(self, index: Parameter, weight: Parameter, logits_index: int) -> None:
        self.given = (index, weight)
        self.logits_index = logits_index

    @classmethod
    def of(cls, experts: nn.Module, index: str, weight: str, logits_index: int) -> "ContractReader":
        """Look the parameters up in the forward of the experts' class."""
        return cls(Parameter.of(experts, index), Parameter.of(experts, weight), logits_index)

    def decode(self, site: "Site", given: tuple[torch.Tensor, ...], output: Any) -> Decision:
        """As the base class; a router with one outcome more than experts skips, which it writes as weight 0."""
        logits = rows(logits_of(output, self.logits_index))
        experts, weights = rows(given[0]), rows(given[1])
        if logits.shape[-1] == site.number_of_experts + 1:
            experts = torch.where(weights == 0, site.number_of_experts, experts)
        return Decision(logits, experts, weights)

    def recombine(
        self, site: "Site", decision: Decision, router: Call, checked: Call
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Run the experts once a slot, all slots given that slot's expert and all weight on one of them."""
        index, weights = (parameter.read(checked.arguments, checked.keywords) for parameter in self.given)
        one = torch.zeros_like(weights)
        one[..., 0] = 1
        total = torch.zeros_like(checked.output, dtype=torch.float32)
        for slot in range(index.shape[-1]):
            same = index[..., slot : slot + 1].expand_as(index).contiguous()
            arguments, keywords = self.given[0].replaced(checked.arguments, checked.keywords, same)
            arguments, keywords = self.given[1].replaced(arguments, keywords, one)
            single = site.experts.forward(*arguments, **keywords)
            total += (weights[..., slot].float().reshape(-1, 1) * rows(single).float()).view_as(total)
        return checked.output, total


def rows(tensor: torch.Tensor) -> torch.Tensor:
    """A row a token: [..., n] as [T, n]."""
    return tensor.detach().flatten(0, -2)


def logits_of(output: object, logits_index: int) -> torch.Tensor:
    """Take the logits out of what a router returned."""
    logits = output[logits_index] if isinstance(output, tuple | list) else output
    if not isinstance(logits, torch.Tensor):
        raise VarError(f"a router returned {type(logits).__name__} where logits were expected; not supported")
    return logits
