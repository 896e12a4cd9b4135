"""Settings of the hypothesis tests."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from var_core.config.base import Block, Distinct

AgreementMeasure = Literal["recall_at_k", "top1_agreement", "set_agreement"]


class H1Config(Block):
    """H1: frequent tokens route with low entropy."""

    spearman_below: float = Field(-0.4, ge=-1, le=1)
    """supported when Spearman(frequency, mean_router_entropy) is below this"""
    p_below: float = Field(0.01, gt=0, lt=1)
    """and its permutation p-value below this"""
    minimum_counts: Annotated[tuple[PositiveInt, ...], Distinct] = Field((1, 10, 100), min_length=1)
    """token types with at least this many occurrences; the first is the hypothesis as first stated"""
    rarefied_to: PositiveInt = 10
    """occurrences that selection entropies are rarefied to before they are compared"""


class H2Config(Block):
    """H2: token frequencies follow Zipf's law."""

    r_squared_above: float = Field(0.8, gt=0, lt=1)
    """supported when log-log least squares over rank and frequency explains more than this"""
    goodness_of_fit_draws: PositiveInt = 100
    """simulated samples behind the Kolmogorov-Smirnov p-value of the maximum-likelihood power law; at least 9 for
    a verdict"""


class H3Config(Block):
    """H3: frequent tokens route consistently."""

    most_frequent: PositiveInt = 1000
    """number of most frequent token types looked at"""
    consistency_above: float = Field(0.8, gt=0, lt=1)
    """supported when their mean consistency is above this"""
    stated_measure: Literal["modal_share", "modal_in_topk", "set_recall"] = "modal_in_topk"
    """the definition of consistency that the verdict as first stated uses; all three are reported"""


class H4Config(Block):
    """H4: much of the text is eligible for the fast path."""

    frequency_above: PositiveInt = 50
    """eligible as first stated: more occurrences than this"""
    entropy_below: PositiveFloat = 0.5
    """and mean router entropy below this, in nats"""
    coverage_above: float = Field(0.4, gt=0, lt=1)
    """supported when the eligible occurrences cover more than this share"""
    agreement_measure: AgreementMeasure = "set_agreement"
    """the agreement with the learned router that the corrected form asks for"""
    agreement_target: float = Field(0.8, gt=0, lt=1)
    """held-out agreement that the covered occurrences must reach"""


class HypothesesConfig(Block):
    """How the hypotheses are tested."""

    confidence: float = Field(0.95, gt=0.5, lt=1)
    """confidence of all intervals"""
    permutations: PositiveInt = 1000
    """shuffles of token labels behind each permutation p-value"""
    null_draws: PositiveInt = 50
    """draws of whole routing nulls (experts by load alone, shuffled tables), which cost more than a shuffle; fewer
    than 1 / ``false_discovery_rate`` can support nothing"""
    bootstrap: PositiveInt = 1000
    """resamples of held-out documents"""
    halvings: PositiveInt = 10
    """ways of halving the held-out documents into a half that H4's cut is chosen on and one that it is measured on"""
    table_minimum_count: PositiveInt = 10
    """occurrences in the capture split from which on a token type has its own entry in the token table"""
    false_discovery_rate: float = Field(0.05, gt=0, lt=1)
    """rate held over layers by Benjamini-Hochberg"""
    seed: NonNegativeInt = 0
    """seed of all draws"""
    h1: H1Config = H1Config()
    h2: H2Config = H2Config()
    h3: H3Config = H3Config()
    h4: H4Config = H4Config()
