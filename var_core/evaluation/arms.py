"""Running a model on unseen text as it is, under a policy, and under controls: losses and agreement by sequence."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from var_core.evaluation.text import Text
from var_core.models.perplexity import SequenceScores, score_sequences
from var_core.policy.runtime import DecisionRecord, Observer, RuntimePolicy
from var_core.policy.sequences import Tokens
from var_core.policy.settings import PolicySettings
from var_core.policy.tables import PolicyTables, token_only
from var_core.policy.ways import Way
from var_core.policy.weighting import Weighting
from var_core.routing.batch import RouterLayout
from var_core.routing.forcing import Forcer
from var_core.routing.recorder import Recorder
from var_core.routing.sites import Site


@dataclass(frozen=True)
class Subject:
    """A causal model whose routing is replaced.

    Attributes
    ----------
    model : transformers.PreTrainedModel
    sites : tuple of Site
    layout : RouterLayout
    weightings : mapping of int to Weighting
        Of each layer; empty unless a policy has live weights.
    """

    model: Any
    sites: tuple[Site, ...]
    layout: RouterLayout
    weightings: Mapping[int, Weighting]


@dataclass(frozen=True)
class Ways:
    """How the decisions of each sequence came about, and how they agree with the router's.

    The router is asked in the shadow about every token, on the hidden states that the policy's own decisions led to.

    Attributes
    ----------
    decisions : numpy.ndarray
        int64 [S, L, 3]: by way, in the order of :class:`var_core.policy.ways.Way`.
    set_agreement, recall_at_k : numpy.ndarray
        float64 [S, L, 3]: their agreement, summed; learned decisions agree by definition.
    """

    decisions: NDArray[np.int64]
    set_agreement: NDArray[np.float64]
    recall_at_k: NDArray[np.float64]

    @classmethod
    def none(cls, sequences: int, layers: int) -> "Ways":
        """Before the first decision."""
        shape = (sequences, layers, len(Way))
        return cls(np.zeros(shape, np.int64), np.zeros(shape), np.zeros(shape))

    @property
    def shares(self) -> NDArray[np.float64]:
        """Share of all decisions by way, [3]."""
        total = self.decisions.sum(axis=(0, 1))
        return total / total.sum()


@dataclass(frozen=True)
class Arm:
    """What came of a text: losses by sequence, and ways where a policy decided."""

    scores: SequenceScores
    ways: Ways | None


class _Tally(Observer):
    """Asks the router about everything, and adds up the decisions of S sequences, a batch after another."""

    def __init__(self, ways: Ways, experts: int, scored: NDArray[np.bool_]) -> None:
        self._ways, self._experts, self._scored = ways, experts, scored

    def asks(self, layer: int, tokens: Tokens) -> torch.Tensor:
        """All that is not padding."""
        return tokens.counts.flatten()

    def decided(self, record: DecisionRecord) -> None:
        """Add a layer's decisions to those of their sequences."""
        rows, own = len(record.tokens.ids), record.tokens.sequence.cpu().numpy()
        given, learned = record.experts.sort(dim=1).values, record.learned_experts.sort(dim=1).values
        same = (given == learned).all(dim=1).double()
        filled = learned < self._experts
        found = (learned[:, :, None] == given[:, None, :]).any(dim=2) & filled
        recall = found.sum(dim=1) / filled.sum(dim=1).clamp_min(1)
        counted = torch.from_numpy(self._scored[own].ravel()).to(record.way.device)
        for way in Way:
            mask = (record.way == int(way)) & counted
            for array, values in (
                (self._ways.decisions, mask),
                (self._ways.set_agreement, same * mask),
                (self._ways.recall_at_k, recall * mask),
            ):
                array[own, record.layer, int(way)] += values.view(rows, -1).sum(dim=1).cpu().numpy()


def run_plain(subject: Subject, text: Text, advance: Callable[[int], None] | None = None) -> Arm:
    """The model as it is."""
    return Arm(_scores(subject, text, nullcontext(), advance), None)


def run_policy(
    subject: Subject,
    text: Text,
    tables: PolicyTables,
    settings: PolicySettings,
    advance: Callable[[int], None] | None = None,
    observers: Sequence[Observer] = (),
) -> Arm:
    """The model under a policy, with the router asked about every token in the shadow."""
    ways = Ways.none(len(text), len(subject.sites))
    policy = RuntimePolicy(
        subject.model, subject.sites, subject.layout, tables, settings, subject.weightings,
        (_Tally(ways, subject.layout.experts, text.scored), *observers),
    )  # fmt: skip
    return Arm(_scores(subject, text, policy, advance), ways)


def run_oracle(subject: Subject, text: Text, advance: Callable[[int], None] | None = None) -> Arm:
    """The model with its own decisions on this text put in the place of its decisions: what a perfect table gives."""
    parts: list[SequenceScores] = []
    for start in range(0, len(text), text.batch_sequences):
        part = text.rows(slice(start, start + text.batch_sequences))
        with Recorder(subject.sites) as recorder:
            _scores(subject, part, nullcontext(), None)
            own = recorder.take()
        assert own.weights is not None
        decisions = {site.layer: (own.experts[site.layer], own.weights[site.layer]) for site in subject.sites}
        parts.append(_scores(subject, part, Forcer(subject.sites, decisions), advance))
    sums, predicted = (np.concatenate([getattr(part, name) for part in parts]) for name in ("nll_sum", "predicted"))
    return Arm(SequenceScores(sums, predicted), None)


def global_table(tables: PolicyTables) -> PolicyTables:
    """Control: the same experts for all tokens that the tables take, the ones used most."""
    experts, weights = (part[:, -1:].expand_as(part).contiguous() for part in (tables.experts, tables.weights))
    return replace(tables, experts=experts, weights=weights)


def random_experts(tables: PolicyTables, layout: RouterLayout, seed: int) -> PolicyTables:
    """Control: for every row of the tables k experts drawn at random at each layer, with the row's weights."""
    random = np.random.default_rng(seed)
    experts = tables.experts.numpy().copy()
    for layer, shape in enumerate(layout.layers):
        drawn = np.argsort(random.random((experts.shape[1], shape.experts)), axis=1)[:, : shape.top_k]
        experts[layer, :, : shape.top_k] = drawn
    return replace(tables, experts=torch.from_numpy(experts))


def all_tokens(tables: PolicyTables) -> PolicyTables:
    """Every token id by its own entry, or where it has none by the one for everything: a plain table."""
    tables = token_only(tables)
    absent = ~tables.present[..., None]
    experts = torch.where(absent, tables.experts[:, -1:], tables.experts)
    weights = torch.where(absent, tables.weights[:, -1:], tables.weights)
    everything = torch.ones_like(tables.present)
    usable = everything.clone()
    usable[:, tables.vocabulary :] = False
    return replace(tables, experts=experts, weights=weights, present=everything, usable=usable)


def _scores(
    subject: Subject, text: Text, inside: AbstractContextManager[Any], advance: Callable[[int], None] | None
) -> SequenceScores:
    with inside:
        return score_sequences(
            subject.model,
            text.input_ids,
            text.document,
            text.batch_sequences,
            text.isolate_documents,
            advance,
            text.scored,
        )
