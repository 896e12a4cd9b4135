"""Settings of the search for a policy's settings."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from var_core.config.base import Block, Distinct
from var_core.config.policy import PolicyConfig, Predicate

TableSet = Literal["token", "pair", "position"]
Sampler = Literal["tpe", "nsga2", "random"]
Objective = Literal["learned_share", "loss_difference"]
Share = Annotated[float, Field(ge=0, le=1)]
AtLeastOne = Field(min_length=1)

TABLES_OF: dict[TableSet, tuple[Literal["token", "pair", "position"], ...]] = {
    "token": ("token",),
    "pair": ("token", "pair"),
    "position": ("token", "pair", "position"),
}
"""What ``policy.tables`` is for each choice of the space."""


class SpaceConfig(Block):
    """What is searched: choices as lists, ranges as [lowest, highest]; one choice, or one value twice, is fixed."""

    predicate: Annotated[tuple[Predicate, ...], Distinct, AtLeastOne] = ("agreement", "classic")
    """predicates, as in policy.predicate"""
    tables: Annotated[tuple[TableSet, ...], Distinct, AtLeastOne] | None = None
    """the last of the tables, each with those before it: token; token and pair; token, pair and position; null: those
    of policy.tables, and fewer"""
    thresholds: Annotated[tuple[Literal["global", "by_layer"], ...], Distinct, AtLeastOne] = ("global", "by_layer")
    """one threshold for all layers, or one for each"""
    agreement_threshold: tuple[Share, Share] = (0.0, 1.0)
    """least agreement of an entry"""
    frequency_threshold: tuple[PositiveInt, PositiveInt] = (1, 1000)
    """classic: more occurrences than this; searched on a logarithmic scale"""
    entropy_threshold: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (0.1, 3.0)
    """classic: less mean router entropy than this, in nats"""
    weights: Annotated[tuple[Literal["stored", "live"], ...], Distinct, AtLeastOne] = ("stored",)
    """as in policy.weights; with live weights the router still runs for every token"""
    capacity: Annotated[tuple[NonNegativeInt, ...], Distinct, AtLeastOne] = (0, 64, 256, 1024)
    """of the context cache; 0: no cache"""
    context_window: tuple[PositiveInt, PositiveInt] = (2, 12)
    """token ids that make a context of the cache"""
    time_to_live: tuple[PositiveInt, PositiveInt] = (16, 4096)
    """tokens after which a context is forgotten; searched on a logarithmic scale"""
    confidence_threshold: tuple[Share, Share] = (0.0, 1.0)
    """confidence of the router from which on what it decided is used again"""

    @model_validator(mode="after")
    def _ranges_are_the_right_way_up(self) -> "SpaceConfig":
        for name in ("agreement_threshold", "frequency_threshold", "entropy_threshold", "context_window",
                     "time_to_live", "confidence_threshold"):  # fmt: skip
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name}: [{low:g}, {high:g}] is upside down; the lowest comes first")
        return self

    def table_sets(self, policy: PolicyConfig) -> tuple[TableSet, ...]:
        """Choices of tables."""
        own = tuple(name for name in TABLES_OF if name in policy.tables)
        return own if self.tables is None else self.tables

    def needed_sets(self, policy: PolicyConfig) -> tuple[TableSet, ...]:
        """Choices of tables, what is configured, and those by token ids alone, which the classic predicate has."""
        return tuple(dict.fromkeys((*self.table_sets(policy), policy.table_set, "token")))

    def searched(self, policy: PolicyConfig) -> list[str]:
        """Keys that are searched: of more than one value, and of use with some of the choices."""
        classic, cached = "classic" in self.predicate, any(self.capacity)
        thresholds = {
            "agreement_threshold": "agreement" in self.predicate,
            "frequency_threshold": classic,
            "entropy_threshold": classic,
        }
        of_cache = dict.fromkeys(("context_window", "time_to_live", "confidence_threshold"), cached)
        # The classic predicate goes by token ids alone.
        used = thresholds | of_cache | {"tables": "agreement" in self.predicate}
        values = dict(self) | {"tables": self.table_sets(policy)}
        found = [name for name, value in values.items() if len(set(value)) > 1 and used.get(name, True)]
        # One threshold or one for each layer is a choice only where there are different ones.
        if not thresholds.keys() & set(found):
            found = [name for name in found if name != "thresholds"]
        return found


class TuningConfig(Block):
    """The search for a policy's settings; the one it chooses is evaluated and certified in place of `policy`'s."""

    enabled: bool = True
    """false: the policy is made as `policy` says"""
    space: SpaceConfig = SpaceConfig()
    """what is searched"""
    objectives: Annotated[tuple[Objective, ...], Distinct, AtLeastOne] = ("learned_share", "loss_difference")
    """what is made small: both, for a Pareto front, or one under the constraints"""
    max_learned_share: Annotated[float, Field(gt=0, le=1)] | None = 0.15
    """constraint: learned share below this; null: none"""
    max_relative_loss: Annotated[float, Field(gt=0)] | None = 0.05
    """constraint: loss increase below this share of the plain model's loss; null: none"""
    sampler: Sampler = "tpe"
    """how settings are proposed: multivariate TPE, NSGA-II, or at random"""
    trials: int = Field(200, ge=10)
    """settings that are tried, and as many at random beside them as a control"""
    workers: PositiveInt = 1
    """jobs that share the trials; with one, the same seed gives the same study"""
    seed: int = 0
    """seed of the sampler"""
    front_points: int = Field(6, ge=3)
    """points of the front that the model is run with, on the tuning split"""
    max_sequences: PositiveInt = 144
    """sequences of the tuning split that it is run on"""
    probes: int = Field(12, ge=4)
    """random policies that the model is run with, on the calibration split, for the model of the loss"""
    probe_sequences: PositiveInt = 96
    """sequences of the calibration split that it is run on"""
    confidence: Annotated[float, Field(gt=0.5, lt=1)] | None = 0.95
    """confidence of the intervals of what is measured; null: none, for text of fewer than 10 clusters of documents"""
    choose: Literal["knee", "fewest_learned"] = "knee"
    """which measured point is chosen: the knee of the front, or the fewest learned decisions within the loss margin"""

    @property
    def limits(self) -> dict[str, float]:
        """The constraints that are set: measure -> what it must be below."""
        limits = {"learned_share": self.max_learned_share, "relative_loss": self.max_relative_loss}
        return {name: limit for name, limit in limits.items() if limit is not None}
