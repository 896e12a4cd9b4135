"""The space that is searched: a trial's settings from a sampler, and a policy's settings as parameters of a trial.

What follows from what (thresholds from the predicate, the cache's keys from its capacity) is written once, in
:func:`suggest`; a policy is turned into parameters by giving :func:`suggest` a trial that reads them off it.
"""

import logging
from collections.abc import Sequence
from typing import Any, Protocol

from var_core.config.policy import LayerThresholds, PolicyConfig, Predicate
from var_core.config.tuning import TABLES_OF, SpaceConfig, TableSet

_LOGGER = logging.getLogger(__name__)

THRESHOLDS: dict[Predicate, tuple[str, ...]] = {
    "agreement": ("agreement_threshold",),
    "classic": ("frequency_threshold", "entropy_threshold"),
}
"""Keys of the policy that each predicate goes by."""
CACHE_KEYS = ("context_window", "time_to_live", "confidence_threshold")
_LOGARITHMIC = {"frequency_threshold", "time_to_live"}


class Trial(Protocol):
    """What :func:`suggest` asks of a trial: Optuna's, one with fixed parameters, or one that reads a policy."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """One of the choices."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """A number of the range, its ends included."""

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        """A whole number of the range, its ends included."""


def suggest(trial: Trial, space: SpaceConfig, configured: PolicyConfig, layers: int) -> PolicyConfig:
    """Settings for a trial; only keys with more than one value are asked of it, and only where they are of use.

    Parameters
    ----------
    trial : Trial
        The trial.
    space : SpaceConfig
        What is searched.
    configured : PolicyConfig
        What the space does not name stays as it is here.
    layers : int
        Layers with a router: parameters of thresholds by layer are called ``agreement_threshold_0`` and so on.
    """
    predicate: Predicate = _choice(trial, "predicate", space.predicate)
    tables: TableSet = configured.table_set
    if predicate == "agreement":
        tables = _choice(trial, "tables", space.table_sets(configured))
    weights = _choice(trial, "weights", space.weights)
    capacity = _choice(trial, "capacity", space.capacity)
    settings: dict[str, Any] = {"predicate": predicate, "tables": TABLES_OF[tables], "weights": weights}
    settings |= _thresholds(trial, space, predicate, layers)
    cache: dict[str, Any] = {"capacity": capacity}
    if capacity:
        cache |= {name: _number(trial, name, getattr(space, name)) for name in CACHE_KEYS}
    settings["cache"] = dict(configured.cache) | cache
    return PolicyConfig.model_validate(dict(configured) | settings)


def parameters_of(
    policy: PolicyConfig, space: SpaceConfig, configured: PolicyConfig, layers: int
) -> dict[str, Any] | None:
    """Parameters of the trial that :func:`suggest` makes a policy of; None, and a line in the log, if there is none."""
    reader = _PolicyReader(policy, layers)
    try:
        found = suggest(reader, space, configured, layers)
    except _NotHeldError as reason:
        _LOGGER.warning("tuning.space: does not hold the policy with predicate %s: %s", policy.predicate, reason)
        return None
    wanted, given = _effect(policy, layers), _effect(found, layers)
    different = [name for name in wanted if wanted[name] != given.get(name)]
    if different:
        name = different[0]
        _LOGGER.info(
            "tuning.space: does not hold the policy with predicate %s: %s is %s, and nothing but %s is searched",
            policy.predicate, name, wanted[name], given.get(name),
        )  # fmt: skip
        return None
    return reader.parameters


def classic_defaults(configured: PolicyConfig) -> PolicyConfig:
    """The configured policy with the classic predicate, its thresholds those for all layers."""
    return configured.model_copy(update={"predicate": "classic", "by_layer": LayerThresholds()})


def threshold(policy: PolicyConfig, name: str) -> tuple[float, ...] | None:
    """A threshold's number, or numbers for each layer; None where the predicate does not use it."""
    if name not in THRESHOLDS[policy.predicate]:
        return None
    return getattr(policy.by_layer, name) or (getattr(policy, name),)


def _thresholds(trial: Trial, space: SpaceConfig, predicate: Predicate, layers: int) -> dict[str, Any]:
    ranges = {name: getattr(space, name) for name in THRESHOLDS[predicate]}
    searched = [name for name, (low, high) in ranges.items() if low != high]
    # One number for each layer is a choice only where there are several numbers, and several layers.
    by_layer = bool(searched) and layers > 1 and _choice(trial, "thresholds", space.thresholds) == "by_layer"
    numbers: dict[str, Any] = {}
    of_layers: dict[str, Any] = {}
    for name, range_ in ranges.items():
        if by_layer and name in searched:
            of_layers[name] = tuple(_number(trial, f"{name}_{layer}", range_) for layer in range(layers))
        else:
            numbers[name] = _number(trial, name, range_)
    return numbers | {"by_layer": LayerThresholds.model_validate(of_layers)}


def _choice(trial: Trial, name: str, choices: Sequence[Any]) -> Any:
    return choices[0] if len(choices) == 1 else trial.suggest_categorical(name, choices)


def _number(trial: Trial, name: str, range_: tuple[Any, Any]) -> Any:
    low, high = range_
    if low == high:
        return low
    suggest_number = trial.suggest_int if isinstance(low, int) else trial.suggest_float
    return suggest_number(name, low, high, log=_key(name) in _LOGARITHMIC)


def _key(name: str) -> str:
    """The key that a parameter is of."""
    key, _, layer = name.rpartition("_")
    return key if layer.isdecimal() else name


class _NotHeldError(Exception):
    """Why the space does not hold a policy."""


class _PolicyReader:
    """A trial that answers with a policy's own settings and notes them down."""

    def __init__(self, policy: PolicyConfig, layers: int) -> None:
        self._layers = layers
        self._values: dict[str, Any] = _effect(policy, layers)
        self.parameters: dict[str, Any] = {}

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        value = self._values[name]
        if value not in choices:
            # One threshold for all layers is also one for each, all the same.
            if name != "thresholds" or value != "global":
                raise _NotHeldError(f"{name} is {value}, which is none of {', '.join(map(str, choices))}")
            value = "by_layer"
        self.parameters[name] = value
        return value

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        return self._number(name, low, high)

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        return int(self._number(name, low, high))

    def _number(self, name: str, low: float, high: float) -> float:
        key = _key(name)
        if key not in self._values:
            raise _NotHeldError(f"it has no {key}")
        value = self._values[key]
        if key in THRESHOLDS[self._values["predicate"]]:
            value = value[0 if key == name else int(name.rpartition("_")[2])]
        if not low <= value <= high:
            raise _NotHeldError(f"{name} is {value:g}, outside of [{low:g}, {high:g}]")
        self.parameters[name] = value
        return value


def _effect(policy: PolicyConfig, layers: int) -> dict[str, Any]:
    """What a policy comes to, by the names of the space: two with the same effect decide the same."""
    thresholds = {name: threshold(policy, name) for name in THRESHOLDS[policy.predicate]}
    several = any(len(set(numbers or ())) > 1 for numbers in thresholds.values())
    effect: dict[str, Any] = {
        "predicate": policy.predicate,
        "tables": policy.table_set,
        "weights": policy.weights,
        "capacity": policy.cache.capacity,
        "thresholds": "by_layer" if several else "global",
    }
    effect |= {
        name: numbers if len(numbers or ()) > 1 else (numbers or ()) * layers for name, numbers in thresholds.items()
    }
    if policy.cache.capacity:
        effect |= {name: getattr(policy.cache, name) for name in CACHE_KEYS}
    return effect
