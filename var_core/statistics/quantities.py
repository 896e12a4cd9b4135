"""What is computed from one decision: router entropy, confidence and margin.

Tensors here have the tokens last, [L, E, T] and [L, k, T]: then what is reduced over a few experts or slots runs over
whole rows of tokens, which is several times faster on a CPU than reducing rows of eight.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from var_core.routing.batch import RouterLayout, Scoring

_NEVER = -1e4
"""Logarithm of a probability that is 0 in float32, and yet gives 0 and not NaN when multiplied by it."""


@dataclass(frozen=True)
class Quantities:
    """Quantities of every decision, [L, T].

    Attributes
    ----------
    router_entropy : torch.Tensor
        Entropy of the router's probabilities over all experts, in nats, float64.
    confidence : torch.Tensor
        Largest probability, float64.
    margin : torch.Tensor
        Smallest probability among the chosen minus largest among the others, float64; negative where the
        selection is not the top k of the probabilities.
    finite : torch.Tensor
        False where a logit or a weight is NaN or infinite; the other quantities mean nothing there. bool.
    """

    router_entropy: torch.Tensor
    confidence: torch.Tensor
    margin: torch.Tensor
    finite: torch.Tensor

    @classmethod
    def joined(cls, parts: "Sequence[Quantities]") -> "Quantities":
        """Put the quantities of successive layers together."""
        if len(parts) == 1:
            return parts[0]
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})

    def stacked(self) -> torch.Tensor:
        """The three quantities in the order of ``tables.QUANTITIES``, float64 [3, L, T]."""
        return torch.stack([self.router_entropy, self.confidence, self.margin])


def multi_hot(experts: torch.Tensor, width: int, kept: torch.Tensor) -> torch.Tensor:
    """Lay the chosen experts out as ones among zeros, float32 [L, E, T].

    Parameters
    ----------
    experts : torch.Tensor
        int64 [L, k, T]; `width` itself stands for an empty slot.
    width : int
        E.
    kept : torch.Tensor
        Decisions that count, bool [L, T]; the others get no ones.
    """
    layers, _, tokens = experts.shape
    # Empty slots, and all slots of what does not count, fall into a row behind the last expert's.
    row = torch.where(kept[:, None], experts, width)
    hot = torch.zeros((layers, width + 1, tokens), device=experts.device)
    return hot.scatter_(1, row, 1.0)[:, :-1]


@dataclass(frozen=True)
class RouterProbabilities:
    """What a decision's logits say, before it is known which experts were chosen.

    Attributes
    ----------
    p : torch.Tensor
        Probabilities of all experts, float32 [L, E, T].
    entropy : torch.Tensor
        Of `p`, in nats, float64 [L, T].
    finite : torch.Tensor
        False where a logit of a layer's own experts is NaN or infinite, bool [L, T].
    """

    p: torch.Tensor
    entropy: torch.Tensor
    finite: torch.Tensor


def router_probabilities(logits: torch.Tensor, layout: RouterLayout) -> RouterProbabilities:
    """Score logits as the routers do, and make the scores sum to 1.

    Half-precision logits are widened first: in float16 ``log(p + 1e-10)`` underflows and the entropy becomes NaN.

    Parameters
    ----------
    logits : torch.Tensor
        [L, E, T], any floating dtype; minus infinity beyond a layer's own experts.
    layout : RouterLayout
        Of the L layers.
    """
    scores = log_scores(logits.float(), layout)
    padding = _padding(layout, logits.device)
    if padding is not None:
        scores = scores.masked_fill(padding, _NEVER)
    log_p = torch.log_softmax(scores, dim=1)
    p = log_p.exp()
    entropy = (p * log_p).sum(dim=1).double().neg_()
    finite = finite_logits(logits.transpose(1, 2), layout) & (entropy == entropy)
    return RouterProbabilities(p, entropy, finite)


def decision_quantities(probabilities: RouterProbabilities, experts: torch.Tensor, hot: torch.Tensor) -> Quantities:
    """Compute the quantities of a batch of decisions.

    Parameters
    ----------
    probabilities : RouterProbabilities
        Of the decisions.
    experts : torch.Tensor
        Chosen experts, int64 [L, k, T]; E stands for an empty slot.
    hot : torch.Tensor
        The same as :func:`multi_hot` gives them, [L, E, T].
    """
    p = probabilities.p
    width = p.shape[1]
    in_slot = p.gather(1, experts.clamp_max(width - 1))
    chosen = torch.where(experts < width, in_slot, 2.0)
    # A probability is at most 1, so taking 2 off the chosen leaves the largest of the others (none: 0).
    others = torch.sub(p, hot, alpha=2.0).amax(dim=1).clamp_min_(0.0)
    return Quantities(
        router_entropy=probabilities.entropy,
        confidence=torch.maximum(_over_slots(torch.maximum, in_slot), others).double(),
        margin=(_over_slots(torch.minimum, chosen) - others).double(),
        finite=probabilities.finite,
    )


def first_choice(experts: torch.Tensor, weights: torch.Tensor, width: int) -> torch.Tensor:
    """The expert with the largest weight of every decision, ties to the lower id; int64 [L, T] from [L, k, T].

    Empty slots hold `width` and weight 0; a decision of nothing but empty slots gives `width`.
    """
    heaviest = weights == _over_slots(torch.maximum, weights)[:, None]
    return _over_slots(torch.minimum, experts.where(heaviest, width))


def _over_slots(reduce: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], values: torch.Tensor) -> torch.Tensor:
    """Reduce [L, k, T] to [L, T] slot by slot: k is small, and torch's own reduction of integers is slow."""
    return functools.reduce(reduce, values.unbind(1))


def _padding(layout: RouterLayout, device: torch.device) -> torch.Tensor | None:
    """True beyond a layer's own experts, bool [L, E, 1]; None where all layers have the same number."""
    if len({layer.experts for layer in layout.layers}) == 1:
        return None
    own = torch.tensor([layer.experts for layer in layout.layers], device=device)
    return (torch.arange(layout.experts, device=device) >= own[:, None])[..., None]


def finite_logits(logits: torch.Tensor, layout: RouterLayout) -> torch.Tensor:
    """False where a NaN or infinite logit would go unnoticed in the entropy, bool [L, T] from [L, T, E].

    With softmax none would: log_softmax gives NaN, or 0 times infinity. A sigmoid, however, is defined at infinity.
    """
    finite = torch.ones(logits.shape[:2], dtype=torch.bool, device=logits.device)
    for place, layer in enumerate(layout.layers):
        if layer.scoring != "softmax":
            finite[place] = torch.isfinite(logits[place, :, : layer.experts]).all(dim=-1)
    return finite


def log_scores(logits: torch.Tensor, layout: RouterLayout) -> torch.Tensor:
    """Logarithms of the routers' scores up to a constant a decision; log_softmax makes them sum to 1.

    Layer by layer, whatever the order of the other axes.
    """
    scorings = [layer.scoring for layer in layout.layers]
    if len(set(scorings)) == 1:
        return _log_score(logits, scorings[0])
    return torch.stack([_log_score(row, scoring) for row, scoring in zip(logits, scorings, strict=True)])


def _log_score(logits: torch.Tensor, scoring: Scoring) -> torch.Tensor:
    if scoring == "softmax":
        return logits
    if scoring == "sigmoid":
        return functional.logsigmoid(logits)
    if scoring == "sqrtsoftplus":
        return 0.5 * functional.softplus(logits).clamp_min(torch.finfo(torch.float32).tiny).log()
    return logits.clamp_min(torch.finfo(torch.float32).tiny).log()
