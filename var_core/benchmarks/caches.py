"""How fast caches of experts are replayed, beside the same replay in plain Python."""

import itertools
from collections import OrderedDict

import numpy as np
import torch

from var_core.benchmarks.document import Section
from var_core.benchmarks.environment import environment
from var_core.benchmarks.timing import Contender, Figure, time_rounds
from var_core.errors import VarError
from var_core.systems.accesses import Accesses, Decisions, accesses_of, as_decode
from var_core.systems.prefetching import Pace, Predicted, replay_prefetching
from var_core.systems.replay import RULES, Capacity, replay

LAYERS, EXPERTS, TOP_K, TOKENS = 16, 64, 8, 8_000
_SHARE = 0.4
_PLAIN_SHARE = 0.05
"""Plain Python replays so much of the trace, in a round of its own."""
_SPREAD = 0.5
"""Deviation of the experts' logits from layer to layer, on top of Gumbel noise a token."""


def caches_section(rounds: int) -> Section:
    """Time LRU, the other rules and prefetching, on one core, on synthetic routing of OLMoE's shape.

    Raises
    ------
    VarError
        If plain Python and the compiled replay count differently.
    """
    accesses, sizes = synthetic_accesses(TOKENS), np.ones(LAYERS, np.int64)
    capacity = Capacity.of_all(round(_SHARE * LAYERS * EXPERTS), sizes)
    part = synthetic_accesses(round(TOKENS * _PLAIN_SHARE))
    uses, next_uses = accesses.counts(), accesses.next_uses(False)
    pace = Pace(np.full((1, LAYERS), 1e-5), np.full((1, LAYERS), 1e-6), np.zeros(1), np.full((1, LAYERS), 1e-4))
    right = Predicted(accesses.offsets, accesses.experts)
    if plain_lru(part, capacity.total) != int(replay(part, "lru", capacity, False).hits.sum()):
        raise VarError("benchmark caches: plain Python and the compiled replay count different hits")

    def by_rule(rule: str) -> Contender:
        return lambda number: replay(accesses, rule, capacity, False, uses, next_uses)  # type: ignore[arg-type]

    contenders: dict[str, Contender] = {rule: by_rule(rule) for rule in RULES}
    contenders["prefetching"] = lambda number: replay_prefetching(accesses, right, capacity, False, pace)
    contenders["plain"] = lambda number: plain_lru(part, capacity.total)
    times = time_rounds(contenders, rounds, torch.device("cpu"))
    unit = "accesses a second"
    figures: dict[str, Figure | str] = {
        f"caches_{name}": times.rate(name, len(accesses.experts), unit) for name in contenders if name != "plain"
    }
    whole = times.scaled({"plain": len(accesses.experts) / len(part.experts)})
    figures["caches_plain_over_lru"] = whole.ratio("plain", "lru")
    about = {
        "rounds": rounds,
        "layers": LAYERS,
        "experts": EXPERTS,
        "top_k": TOP_K,
        "accesses": len(accesses.experts),
        "plain_accesses": len(part.experts),
        "capacity": capacity.total,
        "hit_rate": float(replay(accesses, "lru", capacity, False).hits.sum() / len(accesses.experts)),
    }
    return Section("caches", environment(torch.device("cpu")), about, figures)


def synthetic_accesses(tokens: int, seed: int = 0) -> Accesses:
    """Routing of random tokens: every layer has experts that it likes more, and each token draws k of them."""
    random = np.random.default_rng(seed)
    liked = random.normal(0, 1, (LAYERS, EXPERTS)) * _SPREAD * 2
    scores = liked + random.gumbel(size=(tokens, LAYERS, EXPERTS))
    chosen = np.argpartition(-scores, TOP_K, axis=2)[:, :, :TOP_K].astype(np.int16)
    place = np.arange(tokens)
    own = Decisions(np.zeros_like(place), place, place, chosen, EXPERTS, np.full(tokens, "text"), None, "synthetic")
    return accesses_of(own, *as_decode(own))


def plain_lru(accesses: Accesses, capacity: int) -> int:
    """Hits of an LRU cache as plain Python has it: an ordered dictionary."""
    order: OrderedDict[int, None] = OrderedDict()
    hits = 0
    offsets, experts = accesses.offsets.tolist(), accesses.experts.tolist()
    for begin, end in itertools.pairwise(offsets):
        needed = experts[begin:end]
        there = [item for item in needed if item in order]
        for item in there:
            order.move_to_end(item)
        hits += len(there)
        for item in needed:
            if item not in order:
                if len(order) >= capacity:
                    order.popitem(last=False)
                order[item] = None
    return hits
