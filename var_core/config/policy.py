"""Settings of the routing policy, of its evaluation, and of its certificate."""

from typing import Annotated, Literal, get_args

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from var_core.config.base import Block, Distinct

PolicyTable = Literal["token", "pair", "position"]
Predicate = Literal["agreement", "classic"]
PolicyMeasure = Literal["set_agreement", "recall_at_k"]


class PolicyCacheConfig(Block):
    """The context cache: decisions are used again where the same token ids come again."""

    capacity: NonNegativeInt = 1024
    """contexts that are remembered, the least recently used forgotten first; 0: no cache"""
    context_window: PositiveInt = 8
    """token ids that make a context, the token's own included"""
    time_to_live: PositiveInt = 4096
    """tokens of the sequence after which a context is forgotten"""
    confidence_threshold: float = Field(0.5, ge=0, le=1)
    """confidence of the router from which on what it decided is used again"""
    shared: bool = False
    """one cache for all sequences of a batch, for runs of your own; a workflow refuses it, for nothing can be certified
    of it"""


class BudgetConfig(Block):
    """The limit on decisions of the router, at each layer."""

    max_learned_share: float = Field(1.0, ge=0, le=1)
    """largest share of learned decisions in every window; when it is spent, a token takes the best entry there is;
    1: no limit"""
    window: PositiveInt = 128
    """tokens of a window"""


class AuditConfig(Block):
    """The audit of a running policy; its bound is for sequences that are independent, and of the certified kind."""

    share: float = Field(0.05, gt=0, le=1)
    """share of the sequences whose replaced decisions the router makes again, to compare"""
    alpha: float = Field(0.05, gt=0, lt=1)
    """probability that any layer which is as good as certified is ever switched off, on sequences that come
    independently of each other and are of the kind and length that was certified"""


class LayerThresholds(Block):
    """Thresholds that differ from layer to layer, a number for each, in place of the one for all layers."""

    agreement_threshold: tuple[Annotated[float, Field(ge=0, le=1)], ...] = ()
    """least agreement of an entry; empty: that for all layers"""
    frequency_threshold: tuple[NonNegativeInt, ...] = ()
    """classic: more occurrences than this; empty: that for all layers"""
    entropy_threshold: tuple[Annotated[float, Field(gt=0)], ...] = ()
    """classic: less mean router entropy than this; empty: that for all layers"""


class PolicyConfig(Block):
    """How routing is decided without the router."""

    enabled: bool = True
    """false: no policy is made, evaluated and certified, as for models whose decisions cannot be replaced"""
    tables: Annotated[tuple[PolicyTable, ...], Distinct] = Field(("token", "pair", "position"), min_length=1)
    """what tables go by: token id; also the token id before it (pair); also the position at the start of a document, in
    place of the token before it"""
    predicate: Predicate = "agreement"
    """what the fast path takes: entries that agree with the router on the calibration split, or (classic) token ids
    that are frequent and of low mean router entropy"""
    measure: PolicyMeasure = "set_agreement"
    """agreement: the whole set of experts is the same, or the share of the router's experts that are in it"""
    agreement_threshold: float = Field(0.8, ge=0, le=1)
    """least agreement of an entry"""
    frequency_threshold: NonNegativeInt = 50
    """classic: more occurrences in the capture split than this"""
    entropy_threshold: float = Field(0.5, gt=0)
    """classic: less mean router entropy than this, in nats"""
    by_layer: LayerThresholds = LayerThresholds()
    """thresholds that differ from layer to layer, a number for each, in place of the one for all layers"""
    static_tokens: Annotated[tuple[NonNegativeInt, ...], Distinct] = ()
    """token ids that the fast path takes whatever the predicate says"""
    weights: Literal["stored", "live"] = "stored"
    """weights of experts that the router did not choose: those of the table, or what the router gives them now"""
    cache: PolicyCacheConfig = PolicyCacheConfig()
    """context cache"""
    budget: BudgetConfig = BudgetConfig()
    """limit on learned decisions"""
    audit: AuditConfig = AuditConfig()
    """audit at run time"""

    @property
    def table_set(self) -> PolicyTable:
        """The last of the tables, whatever the order that they are named in; each is beside those before it."""
        return next(name for name in reversed(get_args(PolicyTable)) if name in self.tables)

    @model_validator(mode="after")
    def _tables_build_on_each_other(self) -> "PolicyConfig":
        if "token" not in self.tables:
            raise ValueError("tables: must name token; pair and position are beside it")
        if self.enabled and self.cache.capacity and self.cache.shared:
            raise ValueError(
                "cache.shared: sequences that share a cache depend on each other, so that nothing can be evaluated and "
                "certified of them; set it to false"
            )
        if "position" in self.tables and "pair" not in self.tables:
            raise ValueError("tables: position is a part of pair; name both, or token alone")
        return self


class EvaluationConfig(Block):
    """How policies are compared with the plain model on held-out text."""

    max_sequences: PositiveInt = 512
    """sequences of the held-out split, drawn at random, that the model is run on"""
    sequences_per_cluster: PositiveInt = 8
    """sequences at most that share a group of documents; those that do are one unit of all intervals and bounds"""
    batch_sequences: PositiveInt = 8
    """sequences a forward pass"""
    stride: PositiveInt | None = None
    """tokens that windows of a sequence's length move on by, each scored on its last so many tokens; divides it;
    null: windows do not overlap, and a sequence's first tokens are predicted from little"""
    jobs: PositiveInt = 3
    """jobs that the controls and the other policies are shared out among; the policy itself is one more"""
    thresholds: Annotated[tuple[float, ...], Distinct] = (0.0, 0.5, 0.9)
    """agreement thresholds beside the policy's own, for the curve of quality against coverage"""
    margin: float = Field(0.05, gt=0)
    """share by which the policy's loss may exceed the plain model's"""
    margin_kind: Literal["loss", "perplexity"] = "loss"
    """what the margin is a share of"""
    alpha: float = Field(0.05, gt=0, lt=0.5)
    """level of the test for the margin"""
    confidence: float = Field(0.95, gt=0.5, lt=1)
    """confidence of the intervals"""
    bootstrap: PositiveInt = Field(2000, ge=50)
    """resamples of clusters"""
    seed: int = 0
    """seed of all draws"""


class CertificateConfig(Block):
    """What is promised of a policy."""

    confidence: float = Field(0.95, ge=0.5, lt=1)
    """probability with which all promises hold together"""
    clip_loss: float = Field(0.5, gt=0)
    """nats a token at which the loss differences of sequences are clipped, both ways: no bound holds for the mean of
    what is unbounded"""
