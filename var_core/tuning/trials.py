"""What is known of a trial, and the tables that a study comes to."""

from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa

from var_core.config.policy import PolicyConfig
from var_core.tuning.names import CONTROL as CONTROL
from var_core.tuning.names import SEARCH as SEARCH

CLASSIC, CONFIGURED = "classic", "configured"
"""Trials that every study begins with: the classic predicate, and the policy, both as configured."""


@dataclass(frozen=True)
class Values:
    """What a trial comes to on the calibration split.

    Attributes
    ----------
    learned_share : float
        Share of the decisions that the router makes.
    loss_difference : float
        Modelled, in nats a token.
    relative_loss : float
        The same as a share of the plain model's loss.
    set_agreement, recall_at_k : float
        Mean agreement of the replaced decisions with the router's; NaN where none was replaced.
    misplaced : float
        Share of the router's weights, over all decisions, that the policy gives to other experts or not at all.
    """

    learned_share: float
    loss_difference: float
    relative_loss: float
    set_agreement: float
    recall_at_k: float
    misplaced: float


Evaluate = Callable[[PolicyConfig], Values]
"""Replays a policy."""

TRIALS = pa.schema(
    [
        pa.field("study", pa.string(), nullable=False),
        pa.field("number", pa.int32(), nullable=False),
        pa.field("worker", pa.int16(), nullable=False),
        pa.field("state", pa.string(), nullable=False),
        pa.field("began_as", pa.string()),
        pa.field("seconds", pa.float64()),
        pa.field("learned_share", pa.float64()),
        pa.field("loss_difference", pa.float64()),
        pa.field("relative_loss", pa.float64()),
        pa.field("set_agreement", pa.float64()),
        pa.field("recall_at_k", pa.float64()),
        pa.field("misplaced", pa.float64()),
        pa.field("violation", pa.float64()),
        pa.field("on_front", pa.bool_(), nullable=False),
        pa.field("hypervolume", pa.float64()),
        pa.field("predicate", pa.string(), nullable=False),
        pa.field("tables", pa.string(), nullable=False),
        pa.field("thresholds", pa.string(), nullable=False),
        pa.field("agreement_threshold", pa.list_(pa.float64())),
        pa.field("frequency_threshold", pa.list_(pa.int64())),
        pa.field("entropy_threshold", pa.list_(pa.float64())),
        pa.field("weights", pa.string(), nullable=False),
        pa.field("capacity", pa.int64(), nullable=False),
        pa.field("context_window", pa.int64()),
        pa.field("time_to_live", pa.int64()),
        pa.field("confidence_threshold", pa.float64()),
    ]
)
"""A row a (study, trial), in order of number. ``study``: search, or random, the control. ``state``: complete, or failed
(its worker was ended; it was tried again under another number). ``began_as``: classic or configured, for the
trials that are not the sampler's. ``violation``: the greatest by which a constraint is missed, as a share of it; 0 or
less where all are met. ``hypervolume``: of the trials up to this one. Thresholds: one number, or one for each layer;
NULL for those that the predicate does not use; likewise the cache's without a cache."""

IMPORTANCES = pa.schema(
    [
        pa.field("study", pa.string(), nullable=False),
        pa.field("objective", pa.string(), nullable=False),
        pa.field("parameter", pa.string(), nullable=False),
        pa.field("importance", pa.float64(), nullable=False),
    ]
)
"""A row a (study, objective, parameter): how much it has to do with being among the best trials (PED-ANOVA); shares."""

FRONT = pa.schema(
    [
        pa.field("point", pa.string(), nullable=False),
        pa.field("trial", pa.int32()),
        pa.field("chosen", pa.bool_(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("measure", pa.string(), nullable=False),
        pa.field("estimated", pa.float64()),
        pa.field("measured", pa.float64(), nullable=False),
        pa.field("low", pa.float64()),
        pa.field("high", pa.float64()),
        pa.field("sequences", pa.int64(), nullable=False),
        pa.field("clusters", pa.int64(), nullable=False),
    ]
)
"""A row a (point, measure): a point of the front (``front-0``, …, fewest learned decisions first), or ``classic`` or
``configured``; estimated by replaying the calibration split, measured by running the model on the tuning split.
Measures: learned_share, loss_difference (nats a token), relative_loss, set_agreement (of replaced decisions)."""
