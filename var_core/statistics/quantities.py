"""What is computed from one decision: router entropy, confidence and margin."""

from dataclasses import dataclass

import torch


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
        False where a logit is NaN or infinite; the other quantities mean nothing there. bool.
    """

    router_entropy: torch.Tensor
    confidence: torch.Tensor
    margin: torch.Tensor
    finite: torch.Tensor

    def stacked(self) -> torch.Tensor:
        """The three quantities in the order of ``tables.QUANTITIES``, float64 [3, L, T]."""
        return torch.stack([self.router_entropy, self.confidence, self.margin])


def decision_quantities(logits: torch.Tensor, experts: torch.Tensor) -> Quantities:
    """Compute the quantities of a batch of decisions of softmax routers.

    Half-precision logits are widened first: in float16 ``log(p + 1e-10)`` underflows and the entropy becomes NaN.

    Parameters
    ----------
    logits : torch.Tensor
        [L, T, E], any floating dtype.
    experts : torch.Tensor
        Chosen experts, int64 [L, T, k].
    """
    finite = torch.isfinite(logits).all(dim=-1)
    log_p = torch.log_softmax(logits.float(), dim=-1)
    p = log_p.exp()
    # 0 ln 0 = 0, while 0 * -inf would be NaN: a probability may underflow although its logit is finite.
    entropy = -(p * log_p.clamp_min(-1e4)).sum(dim=-1, dtype=torch.float64)
    chosen = p.gather(-1, experts).amin(dim=-1)
    others = p.scatter(-1, experts, -1.0).amax(dim=-1).clamp_min(0.0)
    return Quantities(
        router_entropy=entropy,
        confidence=p.amax(dim=-1).double(),
        margin=(chosen - others).double(),
        finite=finite,
    )


def first_choice(experts: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The expert with the largest weight of every decision, ties to the lower id; int64 [L, T]."""
    heaviest = weights == weights.amax(dim=-1, keepdim=True)
    return experts.where(heaviest, torch.iinfo(torch.int64).max).amin(dim=-1)
