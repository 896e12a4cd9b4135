"""A policy inside a running model."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import torch
from torch import nn

from var_core.errors import VarError
from var_core.policy.decide import Given, Ways
from var_core.policy.decider import Decider
from var_core.policy.router_rows import PartialRouter, RunRouter
from var_core.policy.sequences import Endings, Sequences, Tokens
from var_core.policy.settings import PolicySettings
from var_core.policy.tables import PolicyTables
from var_core.policy.ways import Way
from var_core.policy.weighting import Weighting
from var_core.routing.batch import RouterLayout, Scoring
from var_core.routing.forcing import replaced_decision
from var_core.routing.hooks import Hooked
from var_core.routing.scoring import scores_of
from var_core.routing.sites import Site


@dataclass(frozen=True)
class DecisionRecord:
    """What was decided at a layer in a forward pass, for T tokens.

    Attributes
    ----------
    step : int
        Number of the forward pass, from 0.
    layer : int
    tokens : Tokens
        The pass's tokens, S x T/S: what the decisions belong to.
    experts : torch.Tensor
        int64 [T, k].
    weights : torch.Tensor
        [T, k].
    way : torch.Tensor
        int8 [T]: a :class:`var_core.policy.ways.Way`; -1 for padding.
    scoring : str
        How the layer's logits become scores.
    logits : torch.Tensor
        [T, E]: of the router where it was asked.
    asked : torch.Tensor
        bool [T].
    learned_experts : torch.Tensor
        int64 [T, k]: what the router decided where it was asked.
    recent : torch.Tensor or None
        int64 [S, W - 1], on the host: token ids before the pass, of which :attr:`context` is made.
    """

    step: int
    layer: int
    tokens: Tokens
    experts: torch.Tensor
    weights: torch.Tensor
    way: torch.Tensor
    scoring: Scoring
    logits: torch.Tensor
    asked: torch.Tensor
    learned_experts: torch.Tensor
    recent: torch.Tensor | None = None

    @property
    def context(self) -> torch.Tensor | None:
        """The cache's key of each token, worked out when it is read; the same at all layers.

        int64 [T, W], on the host: the last `context_window` token ids, the token's own the last of them; -1 where
        there is none, and for padding. None without a cache.
        """
        return None if self.recent is None else self.tokens.contexts(self.recent)

    @property
    def confidence(self) -> torch.Tensor:
        """The router's where it was asked, float32 [T]; NaN elsewhere."""
        return _confidence(self.logits, self.scoring).to(self.asked.device).masked_fill(~self.asked, float("nan"))


class Observer:
    """Looks on while a policy decides; what it does not define does nothing."""

    def asks(self, layer: int, tokens: Tokens) -> torch.Tensor | None:
        """Tokens about which a layer's router is asked in any case, bool [T], on the host; for all layers first."""

    def decided(self, record: DecisionRecord) -> None:
        """Called for every layer of every pass."""

    def begins(self, policy: "RuntimePolicy", tokens: Tokens) -> None:
        """Called before the first layer of every pass."""

    def passed(self, policy: "RuntimePolicy") -> None:
        """Called behind the last layer of every pass."""

    def ended(self, policy: "RuntimePolicy") -> None:
        """Called when the policy is taken out of the model."""


@dataclass
class Counts:
    """Decisions of each layer by way, and tokens that its router was run for."""

    by_way: torch.Tensor
    """int64 [L, 3], on the host, in the order of :class:`var_core.policy.ways.Way`"""
    evaluated: list[int] = field(default_factory=list)
    """of each layer; padding included"""


class RuntimePolicy(Hooked):
    """Context manager that lets a policy decide in a model's routers' place, in prefill and in generation.

    A pass with no key-value cache behind it begins new sequences: their contexts, budgets and audits start anew.
    Generating without that cache, every step of which repeats all tokens before it, is therefore refused.

    What `generate` feeds to the finished rows of a batch is no decision of anybody's: it is not counted, audited, or
    paid for. Which tokens those are is read from ``model.generation_config`` (end and padding) when the policy is made;
    others that are given to `generate` alone are not known.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        Causal, in evaluation mode.
    sites : tuple of Site
        All its MoE layers.
    layout : RouterLayout
        The shape of their decisions.
    tables : PolicyTables
    settings : PolicySettings
    weightings : mapping of int to Weighting, optional
        Of each layer; needed for live weights.
    observers : sequence of Observer, optional
    first_sequence : int, optional
        Number of the first sequence, which an audit samples by: go on from :attr:`next_sequence` of an earlier run,
        or every run's audit looks at the same places. A policy that is entered again goes on by itself.

    Attributes
    ----------
    counts : Counts

    Raises
    ------
    VarError
        If the model's decisions cannot be replaced, or if tables and model do not fit.
    """

    def __init__(
        self,
        model: nn.Module,
        sites: tuple[Site, ...],
        layout: RouterLayout,
        tables: PolicyTables,
        settings: PolicySettings,
        weightings: Mapping[int, Weighting] | None = None,
        observers: Sequence[Observer] = (),
        first_sequence: int = 0,
    ) -> None:
        super().__init__()
        _check(model, sites, layout, tables, settings, weightings)
        self._model, self._sites, self._layout, self._settings = model, sites, layout, settings
        self._weightings, self._observers = weightings or {}, observers
        self._decider = Decider(tables.to(_device(model)), settings)
        self._routers = [PartialRouter(model, site, self._asks(site.layer)) for site in sites]
        self._sequences, self._passes = Sequences(first_sequence, Endings.of(model)), -1
        self._tokens: Tokens | None = None
        self._chosen: dict[int, tuple[Ways, torch.Tensor]] = {}
        self.counts = Counts(torch.zeros(len(sites), len(Way), dtype=torch.int64))

    @property
    def active(self) -> torch.Tensor:
        """Layers whose tables and cache are used, bool [L], on the host; an audit may switch one off."""
        return self._decider.active

    @property
    def next_sequence(self) -> int:
        """Number of the next sequence that begins."""
        return self._sequences.next

    def __enter__(self) -> "RuntimePolicy":
        base = getattr(self._model, "base_model", self._model)
        self._handles.append(base.register_forward_pre_hook(self._begin, with_kwargs=True))
        for site, router in zip(self._sites, self._routers, strict=True):
            router.__enter__()
            self._handles.append(site.router.register_forward_hook(self._keep_output(site)))
            hook = self._experts_hook(site)
            self._handles.append(site.experts.register_forward_pre_hook(hook, with_kwargs=True))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        for router in self._routers:
            router.__exit__(kind, error, trace)
        self.counts.evaluated = [router.evaluated for router in self._routers]
        for observer in self._observers:
            observer.ended(self)

    def _begin(self, module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        """Look up all that follows from the token ids, once for all layers."""
        given = {**dict(zip(("input_ids", "attention_mask", "position_ids"), arguments, strict=False)), **keywords}
        tokens, fresh = self._sequences.read(given)
        self._tokens, self._passes = tokens, self._passes + 1
        for observer in self._observers:
            observer.begins(self, tokens)
        self._chosen.clear()
        if fresh:
            self._decider.begin(len(tokens.ids))
        self._decider.look(tokens, self._asked_anyway(tokens))

    def _asked_anyway(self, tokens: Tokens) -> torch.Tensor | None:
        """Tokens that routers are asked about whatever the policy says, bool [L, T] or [1, T]."""
        if self._settings.weights == "live":
            return torch.ones(1, tokens.ids.numel(), dtype=torch.bool)
        wanted = torch.zeros(len(self._sites), tokens.ids.numel(), dtype=torch.bool)
        for observer in self._observers:
            for site in self._sites:
                mask = observer.asks(site.layer, tokens)
                if mask is not None:
                    wanted[site.layer] |= mask
        return wanted if wanted.numpy().any() else None

    def _asks(self, layer: int) -> Callable[[RunRouter], None]:
        """What the router of a layer is asked."""
        scoring = self._layout.layers[layer].scoring
        needs_confidence = self._settings.cache is not None or self._settings.budget is not None

        def ask(run: RunRouter) -> None:
            logits, confidence = torch.empty(0), torch.empty(0)

            def route(place: torch.Tensor | None) -> torch.Tensor:
                nonlocal logits, confidence
                logits = run(place)
                if needs_confidence:
                    rows = logits if place is None else logits[place.to(logits.device)]
                    own = _confidence(rows, scoring).to(self._decider.step.counts.device)
                    confidence = own if place is None else _put(own, place, confidence, len(logits))
                return confidence

            self._chosen[layer] = (self._decider.choose(layer, route), logits)

        return ask

    def _keep_output(self, site: Site) -> Callable[..., None]:
        def hook(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
            self._output = output

        return hook

    def _experts_hook(self, site: Site) -> Callable[..., Any]:
        layer, (index, weight) = site.layer, site.reader.given

        def hook(module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
            decider, (ways, logits) = self._decider, self._chosen.pop(layer)
            self._count(layer, ways)
            # As the block itself called, so that not a bit differs.
            call = None
            if ways.numbers.replaced or decider.remembered is not None or self._observers:
                own = (index.read(arguments, keywords), weight.read(arguments, keywords))
                decision, device = site.reader.decode(site, own, self._output), ways.way.device
                experts, weights = decision.experts.to(device, torch.int64), decision.weights.to(device)
                given = decider.give(layer, ways, experts, weights)
                if self._settings.weights == "live" and ways.numbers.replaced:
                    given = self._weighted(layer, ways, given, logits.to(device))
                decider.remember(layer, ways, given)
                self._tell(layer, given, ways, logits, experts)
                if ways.numbers.replaced:
                    call = replaced_decision(site, arguments, keywords, given.experts, given.weights)
            return call

        return hook

    def _count(self, layer: int, ways: Ways) -> None:
        by_way, numbers = self.counts.by_way.numpy()[layer], ways.numbers
        by_way[Way.LEARNED] += numbers.learned
        by_way[Way.FAST] += numbers.fast
        by_way[Way.CACHED] += numbers.cached

    def _weighted(self, layer: int, ways: Ways, given: Given, logits: torch.Tensor) -> Given:
        live = self._weightings[layer].weights(logits, given.experts).to(given.weights.dtype)
        if ways.numbers.fast + ways.numbers.cached < ways.way.numel():
            live = torch.where((ways.way > int(Way.LEARNED))[:, None], live, given.weights)
        return Given(given.experts, live)

    def _tell(self, layer: int, given: Given, ways: Ways, logits: torch.Tensor, experts: torch.Tensor) -> None:
        if not self._observers or self._tokens is None:
            return
        scoring, decided = self._layout.layers[layer].scoring, (given.experts, given.weights, ways.way)
        shadow = (logits, ways.asked, experts)
        record = DecisionRecord(
            self._passes, layer, self._tokens, *decided, scoring, *shadow, recent=self._decider.recent
        )
        for observer in self._observers:
            observer.decided(record)
        if layer == len(self._sites) - 1:
            for observer in self._observers:
                observer.passed(self)


def _confidence(logits: torch.Tensor, scoring: Scoring) -> torch.Tensor:
    """The largest share of a router's scores, float32 [T]."""
    scores = scores_of(logits.float(), scoring)
    return scores.amax(dim=1) / scores.sum(dim=1).clamp_min(1e-30)


def _put(values: torch.Tensor, place: torch.Tensor, before: torch.Tensor, tokens: int) -> torch.Tensor:
    """Values of some tokens beside those of others that were there before, [T]."""
    if not before.numel():
        before = values.new_zeros(tokens)
    return before.index_copy(0, place, values)


def _device(model: nn.Module) -> torch.device:
    """Where token ids go in: with an offloaded model, the first parameter may be nowhere."""
    embeddings: nn.Module = model.get_input_embeddings()  # type: ignore[operator]
    device: torch.device = next(embeddings.parameters()).device
    return device


def _check(
    model: nn.Module,
    sites: tuple[Site, ...],
    layout: RouterLayout,
    tables: PolicyTables,
    settings: PolicySettings,
    weightings: Mapping[int, Weighting] | None,
) -> None:
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        raise VarError("a policy runs in decoder-only models; this one has an encoder too")
    for site in sites:
        if not site.forceable or len(site.reader.given) != 2:
            raise VarError(f"MoE layer {site.path}: a policy cannot decide here: {site.reader.unforceable}")
    shape = (len(layout), layout.top_k)
    if (len(tables.experts), tables.top_k) != shape:
        raise VarError(
            f"the policy's tables are for {len(tables.experts)} layers and {tables.top_k} experts a token, the model "
            f"has {shape[0]} and {shape[1]}; it was made for another model"
        )
    if int(tables.experts.max()) > layout.experts:
        raise VarError(
            f"the policy's tables name expert {int(tables.experts.max())}, the model has {layout.experts}; it was made "
            "for another model"
        )
    if settings.weights == "live" and set(weightings or ()) != {site.layer for site in sites}:
        raise VarError("policy.weights: live weights need every layer's weighting")
