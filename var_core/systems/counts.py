"""Counting the operations and bytes of one forward pass, part by part, from the shape of a model."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from var_core.errors import VarError
from var_core.systems.names import (
    ATTENTION,
    DECODE,
    DENSE,
    DISPATCH,
    EXPERTS,
    GATE,
    LM_HEAD,
    OTHER,
    PHASES,
    SHARED_EXPERTS,
    TOP_K,
)
from var_core.systems.shape import Experts, LayerShape, Mixing, ModelShape, Weights

_LOGIT_BYTES = 4  # routers score in float32
_CHOICE_BYTES = 12  # a weight in float32 and an index in int64
_PASSES_OF_NORMS = 10  # two norms (read, write) and two sums with the residual (read twice, write)


@dataclass(frozen=True)
class PartCount:
    """What one part of one layer costs in one forward pass.

    Attributes
    ----------
    part : str
        One of :data:`var_core.systems.names.PARTS`.
    layer : int or None
        Place among all layers; None for what lies outside them: embeddings and last norm (other), and the head.
    flops : float
        Operations of matrix products, two for a multiply-add; all other arithmetic counts by its bytes alone.
    weight_bytes : float
        Weights that are read, each once.
    activation_bytes : float
        Activations that are read and written.
    key_value_bytes : float
        Cache of attention (or recurrent state) that is read and written.
    begun : float
        How often the part is started where every expert is started by itself: of experts, the distinct ones.
    """

    part: str
    layer: int | None
    flops: float
    weight_bytes: float
    activation_bytes: float
    key_value_bytes: float
    begun: float = 1.0

    @property
    def bytes(self) -> float:
        """All bytes that are moved."""
        return self.weight_bytes + self.activation_bytes + self.key_value_bytes


@dataclass(frozen=True)
class _Pass:
    """One forward pass: `new` tokens of each of `batch` sequences, each sequence with `behind` tokens in its cache."""

    decode: bool
    batch: int
    new: int
    behind: int
    number_bytes: float

    @property
    def tokens(self) -> int:
        return self.batch * self.new

    def pairs(self, window: int | None) -> float:
        """Pairs of a token and one that it attends to: itself and those before it, as far as the window reaches."""
        last = self.behind + self.new
        if window is None or window >= last:
            reached = _triangle(last) - _triangle(self.behind)
        else:
            short = max(window - self.behind, 0)  # tokens that see less than a window
            reached = (self.new - short) * window + (_triangle(window) - _triangle(self.behind) if short else 0)
        return float(self.batch * reached)


def _triangle(n: int) -> int:
    return n * (n + 1) // 2


def expected_distinct(experts: int, top_k: int, tokens: float) -> float:
    """Experts that are expected to be needed by that many tokens if all experts are equally likely."""
    return experts * (1.0 - (1.0 - top_k / experts) ** tokens)


def count(
    shape: ModelShape,
    phase: str,
    batch: int,
    context: int,
    distinct: Sequence[float] | None = None,
    head_tokens: int = 1,
) -> tuple[PartCount, ...]:
    """Count one forward pass.

    Attention is counted as fused kernels do it: scores stay on the chip, a token attends to itself and those before
    it, and the cache is read once. A pass reads of the experts' weights those of the distinct experts that its tokens
    are given.

    Parameters
    ----------
    shape : ModelShape
        The model's.
    phase : str
        ``"prefill"``: `context` tokens of each of `batch` sequences at once; ``"decode"``: one token of each of
        `batch` sequences, each with `context` tokens before it.
    batch, context : int
        As said.
    distinct : sequence of float or None, optional
        Distinct experts of each MoE layer; None: what is expected if all experts are equally likely.
    head_tokens : int, optional
        Tokens of each sequence of which logits are wanted: the last, to generate.

    Raises
    ------
    VarError
        If the shape is of routing recorded elsewhere, the phase is unknown, or a number makes no sense.
    """
    shape.require_all()
    here = _pass(shape, phase, batch, context)
    needed = _distinct(shape, here, distinct)
    found = [_outside(shape, here)]
    for place, layer in enumerate(shape.layers):
        found.extend(_layer(layer, place, here, needed.get(place, 0.0), shape.hidden or 0))
    if shape.head is not None:
        found.append(_matrices(LM_HEAD, None, shape.head, batch * min(head_tokens, here.new), here.number_bytes))
    return tuple(found)


def _pass(shape: ModelShape, phase: str, batch: int, context: int) -> _Pass:
    if phase not in PHASES:
        raise VarError(f"phase: {phase!r} is none of {', '.join(PHASES)}; choose one of them")
    if batch < 1 or context < (phase != DECODE):
        raise VarError(f"{shape.name}: batch {batch} and context {context} must be positive to count a {phase}")
    new, behind = (1, context) if phase == DECODE else (context, 0)
    return _Pass(phase == DECODE, batch, new, behind, shape.dtype_bytes)


def _distinct(shape: ModelShape, here: _Pass, given: Sequence[float] | None) -> dict[int, float]:
    if given is None:
        each = [expected_distinct(experts.number, experts.top_k, here.tokens) for experts in shape.experts]
    elif len(given) == len(shape.experts):
        each = [float(number) for number in given]
    else:
        raise VarError(f"{shape.name}: distinct must be one number for each of {len(shape.experts)} MoE layers")
    return dict(zip(shape.moe_places, each, strict=True))


def _outside(shape: ModelShape, here: _Pass) -> PartCount:
    """Embeddings and the last norm: of the table, the tokens' rows are read."""
    row = (shape.hidden or 0) * here.number_bytes
    weights = here.tokens * row + shape.rest.parameters * here.number_bytes
    return PartCount(OTHER, None, 0.0, weights, 3 * here.tokens * row, 0.0)


def _layer(layer: LayerShape, place: int, here: _Pass, distinct: float, hidden: int) -> Iterator[PartCount]:
    def matrices(part: str, weights: Weights) -> PartCount:
        return _matrices(part, place, weights, here.tokens, here.number_bytes)

    if layer.other is not None:
        plain = matrices(OTHER, layer.other)
        norms = _PASSES_OF_NORMS * here.tokens * hidden * here.number_bytes
        yield PartCount(OTHER, place, plain.flops, plain.weight_bytes, plain.activation_bytes + norms, 0.0)
    if layer.attention is not None:
        yield _attention(matrices(ATTENTION, layer.attention), layer.mixing, here)
    if layer.gate is not None:
        yield matrices(GATE, layer.gate)
    if layer.experts is not None:
        yield from _experts(layer.experts, place, here, distinct, hidden)
    if layer.shared_experts is not None:
        yield matrices(SHARED_EXPERTS, layer.shared_experts)
    if layer.dense is not None:
        yield matrices(DENSE, layer.dense)


def _matrices(part: str, place: int | None, weights: Weights, tokens: float, number_bytes: float) -> PartCount:
    """Weights that every token is multiplied with."""
    return PartCount(
        part,
        place,
        2.0 * weights.matrix * tokens,
        weights.parameters * number_bytes,
        weights.widths * tokens * number_bytes,
        0.0,
    )


def _attention(projections: PartCount, mixing: tuple[Mixing, ...], here: _Pass) -> PartCount:
    flops = cached = 0.0
    for one in mixing:
        score, value = (
            (one.decode_score_width, one.decode_value_width) if here.decode else (one.score_width, one.value_width)
        )
        flops += 2.0 * (score + value) * here.pairs(one.window)
        flops += 4.0 * one.state_width * here.tokens  # the state is updated and read out
        last = here.behind + here.new
        read = last if one.window is None else min(last, one.window + here.new - 1)
        cached += here.batch * ((read + here.new) * one.key_value_width + 2.0 * one.state_width)
    return PartCount(
        ATTENTION,
        projections.layer,
        projections.flops + flops,
        projections.weight_bytes,
        projections.activation_bytes,
        cached * here.number_bytes,
    )


def _experts(experts: Experts, place: int, here: _Pass, distinct: float, hidden: int) -> Iterator[PartCount]:
    """The choice, bringing tokens to experts (gathered, then summed with their weights), and the experts."""
    slots = here.tokens * experts.top_k
    choice = here.tokens * experts.number * _LOGIT_BYTES + slots * _CHOICE_BYTES
    yield PartCount(TOP_K, place, 0.0, 0.0, choice, 0.0)
    moved = (3 * slots + here.tokens) * hidden * here.number_bytes
    yield PartCount(DISPATCH, place, 0.0, 0.0, moved, 0.0)
    each = experts.each or Weights()
    yield PartCount(
        EXPERTS,
        place,
        2.0 * each.matrix * slots,
        distinct * (experts.bytes_each or 0.0),
        each.widths * slots * here.number_bytes,
        0.0,
        distinct,
    )


def amdahl_ceiling(
    counts: Sequence[PartCount],
    parts: str | Sequence[str],
    cost: Callable[[PartCount], float] = lambda one: one.flops,
) -> float:
    """Most that a pass can speed up by if some parts cost nothing: 1 / (1 - their share).

    Parameters
    ----------
    counts : sequence of PartCount
        Of one forward pass.
    parts : str or sequence of str
        What is skipped: ``"gate"``, or the gate and top-k.
    cost : callable, optional
        What to share out: operations, or for example the seconds that a device takes for a part.

    Raises
    ------
    VarError
        If the whole costs nothing, or nothing else is left.
    """
    skipped = {parts} if isinstance(parts, str) else set(parts)
    whole = sum(cost(one) for one in counts)
    left = sum(cost(one) for one in counts if one.part not in skipped)
    if left <= 0:
        raise VarError(f"nothing is left of a pass without {', '.join(sorted(skipped))}: no ceiling can be told")
    return whole / left
