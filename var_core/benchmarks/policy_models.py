"""The models that a policy is timed in: whole ones, and such as do nothing but their routers' part."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from var_core.benchmarks.subject import Input, Subject
from var_core.benchmarks.tracing import same_weights
from var_core.evaluation.arms import all_tokens
from var_core.policy.audit import AuditMonitor
from var_core.policy.cache import CacheLimits
from var_core.policy.fitting import Entries, ExpertSums, fit_entries
from var_core.policy.runtime import Observer, RuntimePolicy
from var_core.policy.settings import CacheSettings, PolicySettings
from var_core.policy.shadow import ShadowAudit
from var_core.policy.tables import PolicyTables, assemble
from var_core.policy.weighting import find_weighting
from var_core.routing.batch import RoutedBatch, RouterLayout
from var_core.routing.recorder import Recorder
from var_core.routing.scoring import identify_layout
from var_core.routing.sites import find_sites

EMPTY, TABLE, LIVE, CACHE = "empty", "table", "table_live", "table_cache"
AUDIT, AUDIT_ALL = "table_audit", "table_audit_all"
VARIANTS = {
    EMPTY: "no token id has an entry that may be used: the router decides everything",
    TABLE: "every token id by its entry, with stored weights: the router decides nothing",
    LIVE: "every token id by its entry, its experts weighted by the router",
    CACHE: "every other token id by its entry, the others by a cache of contexts of two tokens or the router",
    AUDIT: "as table, and 5 % of sequences audited: of eight, mostly none or one",
    AUDIT_ALL: "as table, and every sequence audited: what the audit costs those that are sampled",
}
_SHARES = {AUDIT: 0.05, AUDIT_ALL: 1.0}
_CACHE = CacheSettings(CacheLimits(context_window=2, capacity=1024, time_to_live=4096), confidence_threshold=0.3)


@dataclass(frozen=True)
class Recorded:
    """What was recorded of a subject for policies to be made of.

    Attributes
    ----------
    layout : RouterLayout
    tables : PolicyTables
        Every token id by its own entry or the one for everything.
    batch : RoutedBatch
        Decisions on the first input.
    hidden : tuple of torch.Tensor
        [S, T, d]: what each MoE block was given there.
    """

    layout: RouterLayout
    tables: PolicyTables
    batch: RoutedBatch
    hidden: tuple[torch.Tensor, ...]

    @classmethod
    def of(cls, subject: Subject) -> "Recorded":
        """Run the model on its inputs."""
        sites = find_sites(subject.causal)
        blocks = [_block(subject.causal, site.router_path) for site in sites]
        batches, hidden = [], []
        with Recorder(sites) as recorder, torch.inference_mode():
            for given in subject.inputs:
                hidden = _forward_and_inputs(subject.causal, given, blocks)
                batches.append(recorder.take())
        layout = identify_layout(sites, batches[-1]).layout
        return cls(layout, _tables(subject, layout, batches), batches[-1], tuple(hidden))

    def policy(self, model: Any, variant: str) -> RuntimePolicy:
        """One of :data:`VARIANTS` for a copy of the model."""
        usable = self.tables.usable.clone()
        if variant in (EMPTY, CACHE):
            usable[:, :: 1 if variant == EMPTY else 2] = False
        settings = PolicySettings("live" if variant == LIVE else "stored", _CACHE if variant == CACHE else None)
        layers = range(len(self.layout))
        weightings = {n: find_weighting(n, self.layout, self.batch) for n in layers} if variant == LIVE else None
        observers: Sequence[Observer] = ()
        if variant in _SHARES:
            observers = [ShadowAudit(AuditMonitor([0.0 for _ in layers], 0.05), _SHARES[variant])]
        tables = replace(self.tables, usable=usable)
        return RuntimePolicy(model, find_sites(model), self.layout, tables, settings, weightings, observers)


def _block(model: nn.Module, router_path: str) -> nn.Module:
    return model.get_submodule(router_path.rpartition(".")[0])


def _forward_and_inputs(model: Any, given: Input, blocks: Sequence[nn.Module]) -> list[torch.Tensor]:
    """Run the model, and keep what some of its modules are given."""
    kept: list[torch.Tensor] = []
    with ExitStack() as hooks:
        for block in blocks:
            handle = block.register_forward_pre_hook(lambda module, arguments: kept.append(arguments[0]))
            hooks.callback(handle.remove)
        model(input_ids=given.token_ids, position_ids=given.positions, use_cache=False)
    return kept


def _tables(subject: Subject, layout: RouterLayout, batches: Sequence[RoutedBatch]) -> PolicyTables:
    """Tables of the text's own decisions."""
    keys = torch.cat([given.token_ids.flatten() for given in subject.inputs]).cpu().numpy()
    tokens: list[Entries] = []
    everything: list[Entries] = []
    for layer in range(len(layout)):
        experts = torch.cat([batch.experts[layer] for batch in batches]).cpu().numpy()
        weights = torch.cat([_weights(batch)[layer].double() for batch in batches]).cpu().numpy()
        for key, entries in ((keys, tokens), (keys * 0, everything)):
            sums = ExpertSums.of_decisions(key, experts, weights, layout.experts)
            entries.append(fit_entries(sums, layout.experts, layout.top_k, None))
    return all_tokens(assemble(subject.vocabulary, layout.experts, tokens, everything))


def _weights(batch: RoutedBatch) -> torch.Tensor:
    assert batch.weights is not None
    return batch.weights


class WholeModel:
    """A copy of the subject's model, in which a policy may be."""

    def __init__(self, subject: Subject) -> None:
        self.model = same_weights(subject.causal)

    def prefill(self, given: Input) -> Any:
        """A pass over whole sequences; returns logits."""
        return self.model(input_ids=given.token_ids, position_ids=given.positions, use_cache=False).logits

    def decode(self, token_ids: torch.Tensor) -> None:
        """Sequences of given tokens, one token a pass."""
        past = None
        for place in range(token_ids.shape[1]):
            now = token_ids[:, place : place + 1]
            past = self.model(input_ids=now, past_key_values=past, use_cache=True).past_key_values


class RoutersAlone:
    """A copy of the subject's model whose MoE blocks are run one after another, on recorded hidden states.

    Their experts do nothing; what remains are routers, and whatever a policy does in their place.
    """

    def __init__(self, subject: Subject, hidden: Sequence[torch.Tensor]) -> None:
        self.model = same_weights(subject.causal)
        sites = find_sites(self.model)
        self._base, self._hidden = self.model.base_model, hidden
        self._blocks = [_block(self.model, site.router_path) for site in sites]
        self._base.forward = self._forward
        for site in sites:
            site.experts.forward = _same

    def _forward(self, input_ids: torch.Tensor, past_key_values: Any = None, **_: Any) -> None:
        rows, length = input_ids.shape
        start = 0 if past_key_values is None else past_key_values.get_seq_length()
        for block, hidden in zip(self._blocks, self._hidden, strict=True):
            block(hidden[:rows, start : start + length])

    def prefill(self, given: Input) -> None:
        """All blocks on the recorded hidden states of whole sequences."""
        self._base(input_ids=given.token_ids, position_ids=given.positions)

    def decode(self, token_ids: torch.Tensor) -> None:
        """The same, one token a pass."""
        for place in range(token_ids.shape[1]):
            past = SimpleNamespace(get_seq_length=lambda place=place: place)
            self._base(input_ids=token_ids[:, place : place + 1], past_key_values=past)


def _same(hidden: torch.Tensor, *arguments: Any, **keywords: Any) -> torch.Tensor:
    return hidden
