"""What replaced decisions cost in loss, modelled: from where the router's weights go astray, layer by layer.

The loss of a policy takes a forward pass over text; a search tries hundreds of policies. So the model is run under a
few random policies only, and their losses are explained by what a replay knows: the share of the router's weights that
is misplaced at each layer, and the share of the decisions that are replaced at all. The first can only harm; the second
may help, for a table gives what is usual for a token, which is less erratic than a router's single decisions.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from var_core.config.policy import LayerThresholds, PolicyCacheConfig, PolicyConfig
from var_core.config.tuning import SpaceConfig
from var_core.hypotheses.resampling import generator
from var_core.policy.ways import Way
from var_core.tuning.prepared import PreparedTrace, Sums

Floats = NDArray[np.float64]
_STRENGTHS = (0.0, *np.logspace(-5, 1, 13))
"""How strongly the layers' coefficients are held together; the one that predicts left-out probes best is taken."""


@dataclass(frozen=True)
class LossModel:
    """Loss increase, in nats a token, that is expected of a policy.

    Attributes
    ----------
    misplaced : tuple of float
        Nats a token for all weights misplaced, at each layer; none is negative, or a search would misplace them.
    replaced : float
        Nats a token for all decisions replaced.
    plain : float
        Loss of the plain model, nats a token.
    error : float
        Root mean square error of predicting each probe from the others, which also chose how strongly the layers'
        coefficients are held together; nats a token.
    spread : float
        Root mean square of the probes' losses, which is the error of predicting zero.
    probes : int
    """

    misplaced: tuple[float, ...]
    replaced: float
    plain: float
    error: float
    spread: float
    probes: int

    def difference(self, sums: Sums) -> float:
        """Expected loss increase of replayed decisions, nats a token."""
        return float(features(sums) @ np.array([*self.misplaced, self.replaced]))

    def record(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> "LossModel":
        """Read it back."""
        return cls(**{**record, "misplaced": tuple(record["misplaced"])})


def features(sums: Sums) -> Floats:
    """What explains losses, [L + 1]: shares of the weights misplaced at each layer, and of the decisions replaced."""
    by_layer = sums.values.sum(axis=0)
    decisions = by_layer[:, :, 0].sum(axis=1)
    replaced = (by_layer[:, Way.LEARNED + 1 :, 0].sum(axis=1) / decisions).mean()
    return np.append(by_layer[:, :, 3].sum(axis=1) / decisions, replaced)


def fit_loss_model(explaining: Floats, differences: Floats, plain: float) -> LossModel:
    """Fit to probes: least squares, with coefficients of the layers that are not negative and held together.

    Parameters
    ----------
    explaining : numpy.ndarray
        float64 [P, L + 1], of :func:`features`.
    differences : numpy.ndarray
        float64 [P]: measured loss increases, nats a token.
    plain : float
        Loss of the plain model.
    """
    *misplaced, replaced = _fit(explaining, differences)
    misses = []
    for place in range(len(differences)):
        kept = np.arange(len(differences)) != place
        misses.append(explaining[place] @ _fit(explaining[kept], differences[kept]) - differences[place])
    error, spread = (float(np.sqrt(np.mean(np.square(each)))) for each in (misses, differences))
    return LossModel(tuple(map(float, misplaced)), float(replaced), plain, error, spread, len(differences))


def _fit(explaining: Floats, differences: Floats) -> Floats:
    """Coefficients, held together as strongly as predicts left-out probes best."""
    errors = [_left_out_error(explaining, differences, strength) for strength in _STRENGTHS]
    return _solve(explaining, differences, _STRENGTHS[int(np.argmin(errors))])


def _solve(explaining: Floats, differences: Floats, strength: float) -> Floats:
    layers = explaining.shape[1] - 1
    # A layer's coefficient less the mean of all of them, drawn to zero.
    apart = np.sqrt(strength) * np.pad(np.eye(layers) - 1 / layers, ((0, 0), (0, 1)))
    rows = np.concatenate([explaining, apart])
    # What may have either sign is the difference of two numbers that are not negative.
    found, _ = nnls(np.column_stack([rows, -rows[:, -1]]), np.append(differences, np.zeros(layers)))
    return np.append(found[:layers], found[layers] - found[layers + 1])


def _left_out_error(explaining: Floats, differences: Floats, strength: float) -> float:
    misses = []
    for place in range(len(differences)):
        kept = np.arange(len(differences)) != place
        solution = _solve(explaining[kept], differences[kept], strength)
        misses.append(explaining[place] @ solution - differences[place])
    return float(np.sqrt(np.mean(np.square(misses))))


def probe_policies(
    trace: PreparedTrace, name: str, space: SpaceConfig, configured: PolicyConfig, probes: int, seed: int
) -> list[PolicyConfig]:
    """Random policies that cover each layer to any degree, independently of the others (a Latin hypercube).

    Parameters
    ----------
    trace : PreparedTrace
    name : str
        Of the tables that the probes use.
    space : SpaceConfig
        Whose weights and caches they use in turn.
    configured : PolicyConfig
        For all else.
    probes : int
    seed : int
    """
    random = generator(seed, "probes")
    promised = [np.sort(each) for each in trace.owners_agreement(name)]
    strata = np.stack([random.permutation(probes) for _ in promised], axis=1)
    covered = (strata + random.random(strata.shape)) / probes
    # One of them replaces whatever can be.
    covered[0] = 1.0
    drawn = []
    for place in range(probes):
        thresholds = tuple(_threshold_for(own, share) for own, share in zip(promised, covered[place], strict=True))
        changed: dict[str, Any] = {
            "predicate": "agreement",
            "by_layer": LayerThresholds(agreement_threshold=thresholds),
            "weights": space.weights[place % len(space.weights)],
            "cache": _cache(space, random) if place % 2 else PolicyCacheConfig(capacity=0),
        }
        drawn.append(configured.model_copy(update=changed))
    return drawn


def _threshold_for(promised: Floats, share: float) -> float:
    """The threshold that covers a share of the decisions, from what is promised of them in ascending order."""
    place = min(int((1 - share) * len(promised)), len(promised) - 1)
    return float(np.clip(promised[place], 0, 1)) if len(promised) else 1.0


def _cache(space: SpaceConfig, random: np.random.Generator) -> PolicyCacheConfig:
    window, alive, confidence = space.context_window, space.time_to_live, space.confidence_threshold
    return PolicyCacheConfig(
        capacity=max(space.capacity),
        context_window=int(random.integers(window[0], window[1] + 1)),
        time_to_live=alive[1],
        confidence_threshold=float(random.uniform(*confidence)),
    )
