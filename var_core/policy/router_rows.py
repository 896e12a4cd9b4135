"""Running a router for some tokens only, and putting what it returns where the rest of its block expects it."""

from collections.abc import Callable
from types import TracebackType
from typing import Any

import torch
from torch import nn

from var_core.errors import VarError
from var_core.routing.readers import logits_of
from var_core.routing.sites import Site

RunRouter = Callable[[torch.Tensor | None], torch.Tensor]
"""Runs the router for some tokens, int64 [N], or all; returns logits, [T, E], of all that it was run for so far."""

Asks = Callable[[RunRouter], None]
"""Is called with what runs the router, once a forward pass."""


class PartialRouter:
    """Context manager that hands a site's router only the tokens that somebody asks about.

    Where all tokens are asked about, the router is called as the model called it, so that not a bit differs.
    Elsewhere its outputs are zeros, which the block may turn into any decision: the experts must be given another.
    Nothing here waits for a device.

    Parameters
    ----------
    model : torch.nn.Module
        The site's.
    site : Site
    asks : callable
        Called once a forward pass of the site's router; see :data:`Asks`.

    Attributes
    ----------
    evaluated : int
        Tokens that the router ran for.

    Notes
    -----
    A router that returns more than logits, weights and experts (a state for the next layer's, weights of shared
    experts) runs for all tokens: what else uses that must not find zeros.
    """

    def __init__(self, model: nn.Module, site: Site, asks: Asks) -> None:
        self._site, self._asks = site, asks
        self._block = model.get_submodule(site.router_path.rpartition(".")[0])
        self._always_whole = False
        self._blanks: dict[Any, Any] = {}
        self._own: Any = None
        self._wrapped = False
        self.evaluated = 0

    def __enter__(self) -> "PartialRouter":
        router = self._site.router
        # An attribute of the instance already where accelerate has wrapped it.
        self._own, self._wrapped = router.forward, "forward" in vars(router)
        router.forward = self._forward
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._wrapped:
            self._site.router.forward = self._own
        else:
            del self._site.router.forward

    def _forward(self, *arguments: Any, **keywords: Any) -> Any:
        call = _Call(self._site, self._block, self._own, arguments, keywords, self._always_whole, self._blanks)
        self._asks(call.logits)
        output = call.output
        self._always_whole = call.always_whole
        self.evaluated += call.evaluated
        return output


class _Call:
    """One call of a router, made in parts."""

    def __init__(
        self,
        site: Site,
        block: nn.Module,
        own: Callable[..., Any],
        arguments: tuple[Any, ...],
        keywords: dict[str, Any],
        always_whole: bool,
        blanks: dict[Any, Any],
    ) -> None:
        self._site, self._block, self._own, self.always_whole = site, block, own, always_whole
        self._blanks = blanks
        self._arguments, self._keywords = arguments, keywords
        self._hidden = arguments[0] if arguments else next(iter(keywords.values()))
        if not isinstance(self._hidden, torch.Tensor) or self._hidden.ndim < 2:
            raise VarError(f"router {site.router_path} is not given hidden states first; a policy cannot run in it")
        self._lead = self._hidden.shape[:-1]
        self._tokens = self._lead.numel()
        self._output: Any = None
        self._part: Any = None
        self.evaluated = 0

    @property
    def output(self) -> Any:
        """What the block is given."""
        if self._output is None:
            self._output = self._nothing()
        return self._output

    def _nothing(self) -> Any:
        """What the router returns, if nobody asked it about anything."""
        # One token's output shows once what they look like; another precision, another look.
        device = self._hidden.device
        look = (self._hidden.dtype, device, torch.is_autocast_enabled(device.type))
        if look not in self._blanks:
            self._run(torch.zeros(1, dtype=torch.int64, device=device))
            if self.always_whole:
                return self._output
            self._blanks[look] = self._part
        return self._put(self._blanks[look], None, 1)

    def logits(self, place: torch.Tensor | None) -> torch.Tensor:
        """Run the router for some tokens, or all; logits of all that were asked about so far, [T, E]."""
        if self.always_whole or place is None:
            self._run_whole()
        elif place.numel():
            self._run(place)
            self.evaluated += place.numel()
        reader = self._site.reader
        logits = logits_of(self.output, getattr(reader, "logits_index", 0))
        return logits.detach().reshape(self._tokens, -1)

    def _run_whole(self) -> None:
        if self.evaluated < self._tokens:
            self._output = self._own(*self._arguments, **self._keywords)
            self.evaluated = self._tokens

    def _run(self, place: torch.Tensor) -> None:
        part = self._own(
            *(self._some(value, place) for value in self._arguments),
            **{name: self._some(value, place) for name, value in self._keywords.items()},
        )
        if not self._is_decision(part):
            self.always_whole = True
            self._run_whole()
            return
        self._part = part
        self._output = self._put(part, place, place.numel())

    def _put(self, part: Any, place: torch.Tensor | None, many: int) -> Any:
        """The output with what was returned for some tokens put in their places, or nowhere."""
        before = self._output
        if isinstance(part, tuple | list):
            olds = before if before is not None else [None] * len(part)
            return type(part)(self._all(new, old, place, many) for new, old in zip(part, olds, strict=True))
        return self._all(part, before, place, many)

    def _is_decision(self, output: Any) -> bool:
        """Whether an output is logits, or these with weights and experts; None and numbers beside them do not count."""
        if not isinstance(output, tuple | list):
            return True
        logits_index = getattr(self._site.reader, "logits_index", 0)
        others = [part for place, part in enumerate(output) if place != logits_index and isinstance(part, torch.Tensor)]
        rows = [part for part in others if part.ndim]
        kinds = [part.dtype.is_floating_point for part in rows]
        alike = len({part.shape[-1] for part in rows}) <= 1
        return alike and kinds.count(True) <= 1 and kinds.count(False) <= 1

    def _some(self, value: Any, place: torch.Tensor) -> Any:
        """Rows of an argument that has one a token."""
        if not isinstance(value, torch.Tensor) or (value is not self._hidden and self._is_fixed(value)):
            return value
        for dimensions in (len(self._lead), 1):
            if value.shape[:dimensions].numel() == self._tokens and value.ndim >= dimensions:
                rows = value.flatten(0, dimensions - 1).index_select(0, place.to(value.device))
                return rows.view(*([1] * (dimensions - 1)), *rows.shape)
        return value

    def _is_fixed(self, value: torch.Tensor) -> bool:
        """Whether a block hands its router something of its own (a bias by expert), which has no row a token."""
        return any(value is own for own in (*self._block.parameters(), *self._block.buffers()))

    def _all(self, part: Any, before: Any, place: torch.Tensor | None, many: int) -> Any:
        """An output with the rows of `many` tokens in their places, if they have any."""
        if not isinstance(part, torch.Tensor) or not part.ndim:
            return part
        whole = part.new_zeros(self._whole_shape(part, many)) if before is None else before
        if place is not None:
            whole.view(self._tokens, -1).index_copy_(0, place.to(whole.device), part.reshape(many, -1))
        return whole

    def _whole_shape(self, part: torch.Tensor, many: int) -> tuple[int, ...]:
        """Shape of an output for all tokens, of which one for some is given: a row a token, in one dimension or all."""
        own, lead = part.shape, self._lead
        if len(lead) > 1 and own[: len(lead)] == (*([1] * (len(lead) - 1)), many):
            return (*lead, *own[len(lead) :])
        if own[0] == many:
            return (self._tokens, *own[1:])
        raise VarError(
            f"router {self._site.router_path} returns a tensor of shape {tuple(own)} for {many} tokens, which "
            "has no row a token; a policy cannot run in it"
        )
