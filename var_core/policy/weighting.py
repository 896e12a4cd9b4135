"""Weights of experts that a table chose, computed from the router's logits as the router would have."""

from dataclasses import dataclass

import torch

from var_core.errors import VarError
from var_core.routing.batch import RoutedBatch, RouterLayout, Scoring
from var_core.routing.scoring import scores_of

_TOLERANCE = 2e-2


@dataclass(frozen=True)
class Weighting:
    """How a layer weights the experts it chose.

    Attributes
    ----------
    scoring : str
        How logits become scores.
    total : float or None
        What the weights of a token add up to; None where they are the scores themselves, times `factor`.
    factor : float
    """

    scoring: Scoring
    total: float | None
    factor: float

    def weights(self, logits: torch.Tensor, experts: torch.Tensor) -> torch.Tensor:
        """Weights of chosen experts, float32 [T, k]; 0 in empty slots.

        Parameters
        ----------
        logits : torch.Tensor
            [T, E].
        experts : torch.Tensor
            int64 [T, k].
        """
        width = logits.shape[1]
        chosen = scores_of(logits.float(), self.scoring).gather(1, experts.clamp(max=width - 1))
        chosen = chosen.masked_fill(experts >= width, 0)
        if self.total is None:
            return chosen * self.factor
        return chosen * (self.total / chosen.sum(dim=1, keepdim=True).clamp_min(1e-20))


def find_weighting(layer: int, layout: RouterLayout, batch: RoutedBatch) -> Weighting:
    """Find how a layer weights experts from decisions of its own.

    Parameters
    ----------
    layer : int
    layout : RouterLayout
    batch : RoutedBatch
        Decisions with logits and weights.

    Raises
    ------
    VarError
        If neither the scores nor the scores made to sum to a constant are the weights.
    """
    assert batch.logits is not None and batch.weights is not None
    shape = layout.layers[layer]
    logits, experts = batch.logits[layer][:, : shape.experts].float(), batch.experts[layer][:, : shape.top_k]
    experts = experts.masked_fill(experts >= layout.experts, shape.experts)
    weights = batch.weights[layer][:, : shape.top_k].float()
    filled = (experts < shape.experts).all(dim=1)
    whole = weights[filled].sum(dim=1)
    candidates = [Weighting(shape.scoring, float(whole.median()), 1.0)] if len(whole) else []
    scores = scores_of(logits, shape.scoring).gather(1, experts.clamp(max=shape.experts - 1))
    scores = scores.masked_fill(experts >= shape.experts, 0)
    candidates.append(Weighting(shape.scoring, None, float((weights * scores).sum() / scores.square().sum())))
    errors = [float((each.weights(logits, experts) - weights).abs().max() / weights.abs().max()) for each in candidates]
    best = min(range(len(candidates)), key=errors.__getitem__)
    if not errors[best] <= _TOLERANCE:
        raise VarError(
            f"policy.weights: the weights of MoE layer {layer} are no simple function of its router's scores (largest "
            f"difference {errors[best]:.2g}); use stored weights"
        )
    return candidates[best]
