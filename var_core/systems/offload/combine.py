"""Running a layer's own forward on experts that are in numbered places, all of them at once or some after others."""

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from var_core.routing.readers import Parameter
from var_core.routing.sites import Site

Group = Mapping[int, int]
"""Experts and the places that they are in."""


class ExpertsInPlaces:
    """The forward of a site's experts, given places instead of experts.

    What is computed is, to the bit, what the forward computes with all experts, where it runs the tokens of an expert
    by themselves: the contributions of a token's experts are put together as it does, whatever their places and groups.
    So the eager forward, which adds them up by ascending expert, is always run with one slot a token; and the batched
    one, whose kernel depends on the number of slots, with all slots for every group.

    Parameters
    ----------
    site : Site
        Whose forward is still the experts' own.
    """

    def __init__(self, site: Site) -> None:
        self._forward, self._experts = site.experts.forward, site.number_of_experts
        self._index, self._weight = site.reader.given
        self._hidden = Parameter(0, next(iter(inspect.signature(self._forward).parameters)))
        implementation = getattr(site.experts.config, "_experts_implementation", None)
        self._ascending, self._batched = implementation == "eager", implementation == "batched_mm"

    def needed(self, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> list[int]:
        """The distinct experts of a call's tokens, ascending."""
        index = self._index.read(arguments, keywords)
        return sorted({expert for expert in index.flatten().tolist() if expert < self._experts})

    def together(self, arguments: tuple[Any, ...], keywords: dict[str, Any], group: Group) -> torch.Tensor:
        """What the layer returns, when all experts of the call are in places at the same time."""
        if self._ascending:
            return self.by_groups(arguments, keywords, (group,))
        index = self._index.read(arguments, keywords)
        return self._forward_at(arguments, keywords, self._places(group, index))

    def by_groups(self, arguments: tuple[Any, ...], keywords: dict[str, Any], groups: Iterable[Group]) -> torch.Tensor:
        """What the layer returns, when groups of its experts are in places after one another.

        Each group's experts are used before the next group is asked for.
        """
        hidden = self._hidden.read(arguments, keywords)
        index, weights = (each.read(arguments, keywords) for each in (self._index, self._weight))
        tokens, k = index.shape
        # Each expert's tokens in the order in which the layer has them: eager goes through slots first.
        slots = index.t() if self._ascending else index
        token = torch.arange(tokens, device=index.device)
        token = token.repeat(k) if self._ascending else token.repeat_interleave(k)
        slots = slots.flatten()
        outputs = hidden.new_zeros((len(slots), hidden.shape[-1]))
        for group in groups:
            mine = torch.isin(slots, torch.tensor(list(group), device=slots.device))
            run = torch.ones_like(mine) if self._batched else mine
            one = weights.new_ones((int(run.sum()), 1))
            part, more = self._hidden.replaced(arguments, keywords, hidden[token[run]])
            part, more = self._weight.replaced(part, more, one)
            output = self._forward_at(part, more, self._places(group, slots[run][:, None]))
            outputs[mine] = output[mine[run]]
        if self._ascending:
            outputs = outputs.view(k, tokens, -1).transpose(0, 1)
            return _added_up(index, (outputs * weights[..., None]).to(hidden.dtype))
        return (outputs * weights.reshape(-1, 1)).view(tokens, k, -1).sum(dim=1).to(hidden.dtype)

    def _places(self, group: Group, index: torch.Tensor) -> torch.Tensor:
        place = torch.zeros(self._experts + 1, dtype=index.dtype)
        place[list(group)] = torch.tensor(list(group.values()), dtype=index.dtype)
        return place.to(index.device)[index.clamp(max=self._experts)]

    def _forward_at(self, arguments: tuple[Any, ...], keywords: dict[str, Any], places: torch.Tensor) -> torch.Tensor:
        arguments, keywords = self._index.replaced(arguments, keywords, places)
        output: torch.Tensor = self._forward(*arguments, **keywords)
        return output


def _added_up(index: torch.Tensor, contributions: torch.Tensor) -> torch.Tensor:
    """Sum of each token's contributions, [T, k, H], one after another by ascending expert."""
    order = index.argsort(dim=1, stable=True)
    contributions = contributions.gather(1, order[..., None].expand_as(contributions))
    total = torch.zeros_like(contributions[:, 0])
    for slot in range(contributions.shape[1]):
        total += contributions[:, slot]
    return total
