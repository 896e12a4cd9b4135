"""Which function of its logits a router weights experts by: fitted to a few decisions, not read from a list."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch.nn import functional

from var_core.errors import VarError
from var_core.routing.batch import LayerRouter, RoutedBatch, RouterLayout, Scoring
from var_core.routing.sites import Site

ScoringBasis = Literal["fitted", "assumed"]
"""Whether a layer's scoring explains its weights, or was assumed because its weights do not say."""

_SCORES: dict[Scoring, Callable[[torch.Tensor], torch.Tensor]] = {
    "softmax": lambda logits: torch.softmax(logits, dim=-1),
    "sigmoid": torch.sigmoid,
    "sqrtsoftplus": lambda logits: functional.softplus(logits).sqrt(),
    "probabilities": lambda logits: logits,
}
_TOLERANCES = {torch.float32: 1e-4, torch.float16: 4e-3, torch.bfloat16: 2e-2}
_MIN_AGREEMENT = 0.99
_MIN_SPARE_OBSERVATIONS = 16
_FITTED_TOKENS = 512


def scores_of(logits: torch.Tensor, scoring: Scoring) -> torch.Tensor:
    """Scores of all experts, [..., E], by the function of that name; not made to sum to 1."""
    return _SCORES[scoring](logits)


@dataclass(frozen=True)
class IdentifiedLayout:
    """A layout, and how each layer's scoring is known.

    Attributes
    ----------
    layout : RouterLayout
        The shape of the decisions.
    basis : tuple of str
        ``"fitted"`` or ``"assumed"``, a layer each.
    """

    layout: RouterLayout
    basis: tuple[ScoringBasis, ...]


def identify_layout(sites: tuple[Site, ...], batch: RoutedBatch, tolerance: float | None = None) -> IdentifiedLayout:
    """Find each layer's experts, slots and scoring from the decisions of some tokens.

    A scoring explains the weights if these are its scores times a constant, times a factor a token (weights made to
    sum to 1), or times a factor a token and a factor an expert (a learned scale of experts). Where none does, softmax
    is assumed if at least the top k logits are the selection, or if there is one slot, always of the same weight.

    Parameters
    ----------
    sites : tuple of Site
        The layers.
    batch : RoutedBatch
        Decisions of at least a few dozen tokens, with logits and weights.
    tolerance : float, optional
        Largest difference of weights, relative to their sum for the token; by default that of the precision.

    Raises
    ------
    VarError
        If the experts are given an index that no outcome of their router has, naming the layer; if the logits do not
        explain the decisions, or none are finite, naming the router.
    """
    assert batch.logits is not None and batch.weights is not None
    if tolerance is None:
        tolerance = max(_TOLERANCES.get(dtype, 2e-2) for dtype in (batch.logits.dtype, batch.weights.dtype))
    layers: list[LayerRouter] = []
    basis: list[ScoringBasis] = []
    for site in sites:
        rows = _Rows.of(batch.logits[site.layer], batch.experts[site.layer], batch.weights[site.layer])
        if not len(rows.logits):
            raise VarError(
                f"router {site.router_path} returned no finite logits for any of {batch.logits.shape[1]} tokens; load "
                "the model in a wider dtype (models.<name>.dtype)"
            )
        _refuse_unknown_experts(site, batch.logits[site.layer], batch.experts[site.layer], batch.weights[site.layer])
        scoring, known = _identify(site, rows, tolerance)
        layers.append(LayerRouter(rows.logits.shape[1], rows.experts.shape[1], scoring))
        basis.append(known)
    return IdentifiedLayout(RouterLayout(tuple(layers)), tuple(basis))


@dataclass(frozen=True)
class _Rows:
    """One layer's decisions without padding, float64, of the tokens whose logits are finite."""

    logits: torch.Tensor
    experts: torch.Tensor
    weights: torch.Tensor

    @classmethod
    def of(cls, logits: torch.Tensor, experts: torch.Tensor, weights: torch.Tensor) -> "_Rows":
        empty = logits.shape[1]
        logits = logits[:, : _used(~logits.isneginf())]
        slots = _used(experts < empty)
        finite = logits.isfinite().all(1)
        return cls(logits[finite].double(), experts[finite, :slots], weights[finite, :slots].double())

    @property
    def filled(self) -> torch.Tensor:
        """Slots with an expert that has a weight; a skipped or dropped one says nothing of the scores."""
        return (self.experts < self.logits.shape[1]) & (self.weights != 0)

    def gathered(self, scores: torch.Tensor) -> torch.Tensor:
        """The chosen experts' scores, 0 in empty slots."""
        chosen = scores.gather(1, self.experts.clamp(max=scores.shape[1] - 1))
        return chosen.masked_fill(~self.filled, 0)


def _refuse_unknown_experts(site: Site, logits: torch.Tensor, experts: torch.Tensor, weights: torch.Tensor) -> None:
    """Counting goes by these indices; one beyond a layer's own would be counted for something else, or nowhere."""
    width, empty = _used(~logits.isneginf()), logits.shape[1]
    known = (experts >= 0) & (experts < width) | (experts == empty) & ~(weights.abs() > 0)
    if not known.all():
        raise VarError(
            f"MoE layer {site.path} was given expert {int(experts[~known][0])}, but router {site.router_path} has only "
            f"outcomes 0 to {width - 1}: shared experts among the routed ones are not supported; leave the layer out "
            "with models.<name>.exclude_sites"
        )


def _used(mask: torch.Tensor) -> int:
    """Columns up to the last one that any row uses."""
    used = mask.any(0).nonzero()
    return int(used.max()) + 1 if len(used) else 1


def _identify(site: Site, rows: _Rows, tolerance: float) -> tuple[Scoring, ScoringBasis]:
    sums_to_one = bool(((rows.logits.sum(1) - 1).abs() <= tolerance).all() and (rows.logits >= 0).all())
    candidates: list[Scoring] = ["probabilities"] if sums_to_one else ["softmax", "sigmoid", "sqrtsoftplus"]
    for fit in (_constant_error, _token_error, _expert_error):
        errors = {name: fit(rows, rows.gathered(scores_of(rows.logits, name))) for name in candidates}
        best = min(errors, key=lambda name: errors[name])
        if errors[best] <= tolerance:
            return best, "fitted"
    silent = rows.experts.shape[1] == 1 and _spread(rows.weights[rows.filled]) <= tolerance
    if silent or _agreement(rows) >= _MIN_AGREEMENT:
        return candidates[0], "assumed"
    raise VarError(
        f"router {site.router_path}: its logits do not explain its decisions: no scoring ({', '.join(candidates)}) "
        f"gives the weights, and the top k logits are the selection for only {_agreement(rows):.0%} of "
        f"{len(rows.logits)} tokens; this router is not supported"
    )


def _constant_error(rows: _Rows, scores: torch.Tensor) -> float:
    """Error of weights = constant x scores, relative to the largest weight."""
    weights = rows.weights.masked_fill(~rows.filled, 0)
    constant = (weights * scores).sum() / (scores**2).sum()
    return _finite((weights - constant * scores).abs().max() / weights.abs().max())


def _token_error(rows: _Rows, scores: torch.Tensor) -> float:
    """Error of weights = factor of the token x scores, both made to sum to 1; needs two slots."""
    several = rows.filled.sum(1) > 1
    if not several.any():
        return float("inf")
    return _finite((_shares(rows.weights[several]) - _shares(scores[several])).abs().max())


def _expert_error(rows: _Rows, scores: torch.Tensor) -> float:
    """Error of weights = factor of the token x factor of the expert x scores, fitted in logarithms."""
    rows = _Rows(*(part[:_FITTED_TOKENS] for part in (rows.logits, rows.experts, rows.weights)))
    scores = scores[:_FITTED_TOKENS]
    tokens, width = rows.logits.shape
    filled = rows.filled & (scores > 0) & (rows.weights > 0)
    token, _ = torch.where(filled)
    expert = rows.experts[filled]
    if len(token) < tokens + width + _MIN_SPARE_OBSERVATIONS:
        return float("inf")
    design = torch.zeros(len(token), tokens + width, dtype=torch.float64, device=scores.device)
    row = torch.arange(len(token), device=scores.device)
    design[row, token] = 1
    design[row, tokens + expert] = 1
    target = (rows.weights[filled] / scores[filled]).log()
    # Factors are known up to one constant only, hence the smallest solution.
    factors = torch.linalg.lstsq(design.cpu(), target.cpu()[:, None], driver="gelsd").solution[tokens:, 0]
    scaled = scores * factors.exp().to(scores.device)[rows.experts.clamp(max=width - 1)]
    return _token_error(rows, scaled)


def _shares(values: torch.Tensor) -> torch.Tensor:
    return values / values.sum(1, keepdim=True)


def _spread(weights: torch.Tensor) -> float:
    return float((weights.max() - weights.min()) / weights.abs().max()) if len(weights) else 0.0


def _agreement(rows: _Rows) -> float:
    """Share of tokens whose selection is the top k of the logits."""
    top = rows.logits.topk(rows.experts.shape[1], dim=1).indices.sort(1).values
    return float((top == rows.experts.sort(1).values).all(1).double().mean())


def _finite(error: torch.Tensor) -> float:
    return float(error) if bool(error.isfinite()) else float("inf")
