"""The shape of a model: how large each part of each layer is, which is all that counting costs needs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from var_core.errors import VarError


@dataclass(frozen=True)
class Weights:
    """Size of the weights of one part.

    Attributes
    ----------
    matrix : float
        Parameters that a token is multiplied with: those of matrices (and convolutions), not biases and scales.
    parameters : float
        All parameters.
    widths : float
        Sum over the matrices of the width of what goes in and of what comes out, per token.
    """

    matrix: float = 0.0
    parameters: float = 0.0
    widths: float = 0.0

    def __add__(self, other: "Weights") -> "Weights":
        return Weights(self.matrix + other.matrix, self.parameters + other.parameters, self.widths + other.widths)


@dataclass(frozen=True)
class Mixing:
    """How one layer mixes tokens, beside its weights; widths are numbers of elements.

    Attributes
    ----------
    score_width, value_width : float
        Multiply-adds for each pair of a token and one that it attends to: of queries with keys, and of scores with
        values (heads x their width).
    decode_score_width, decode_value_width : float
        The same while decoding. They differ where what is cached is a latent that the projections of keys and values
        are absorbed into (multi-head latent attention).
    key_value_width : float
        Elements that are cached for each token.
    window : int or None
        Most tokens that one attends to; None: all before it.
    state_width : float
        Elements of the recurrent state of a sequence, where the layer has one instead of a cache.
    """

    score_width: float = 0.0
    value_width: float = 0.0
    decode_score_width: float = 0.0
    decode_value_width: float = 0.0
    key_value_width: float = 0.0
    window: int | None = None
    state_width: float = 0.0


@dataclass(frozen=True)
class Experts:
    """The experts of one MoE layer.

    Attributes
    ----------
    number, top_k : int
        E and k.
    each : Weights or None
        Of one expert; None if not known.
    bytes_each : float or None
        Memory of one expert as it is stored; None if not known.
    """

    number: int
    top_k: int
    each: Weights | None
    bytes_each: float | None


@dataclass(frozen=True)
class LayerShape:
    """One layer, in the order in which they run; None where a part is not there (or, if recorded, not known).

    A layer with two sets of experts (of attention and of the MLP) counts as two.
    """

    path: str
    attention: Weights | None = None
    mixing: tuple[Mixing, ...] = ()
    gate: Weights | None = None
    experts: Experts | None = None
    shared_experts: Weights | None = None
    dense: Weights | None = None
    other: Weights | None = None

    @property
    def weights(self) -> Weights:
        """Of all parts but the experts."""
        parts = (self.attention, self.gate, self.shared_experts, self.dense, self.other)
        return sum((part for part in parts if part is not None), Weights())


@dataclass(frozen=True)
class ModelShape:
    """The shape of a model.

    Attributes
    ----------
    name : str
        The model's.
    dtype_bytes : float
        Bytes of a number: of activations, of what attention caches, and of all weights but the experts'.
    hidden, vocabulary : int or None
        Width of the hidden states, and token ids; None where routing was recorded elsewhere.
    embedding : Weights
        The table of token embeddings, of which a pass reads its tokens' rows.
    head : Weights or None
        The language-model head; None for a model without one.
    tied : bool
        Whether the head uses the table of embeddings.
    rest : Weights
        What lies outside the layers and runs for every token: the last norm.
    elsewhere : Weights
        What text does not reach, such as a vision tower.
    layers : tuple of LayerShape
        In the order in which they run.
    recorded : bool
        Whether only the experts are known, because the routing was recorded elsewhere.
    """

    name: str
    dtype_bytes: float
    hidden: int | None
    vocabulary: int | None
    embedding: Weights
    head: Weights | None
    tied: bool
    rest: Weights
    elsewhere: Weights
    layers: tuple[LayerShape, ...]
    recorded: bool = False

    @property
    def moe_places(self) -> tuple[int, ...]:
        """Place of each MoE layer among all layers."""
        return tuple(place for place, layer in enumerate(self.layers) if layer.experts is not None)

    @property
    def experts(self) -> tuple[Experts, ...]:
        """Experts of each MoE layer."""
        return tuple(layer.experts for layer in self.layers if layer.experts is not None)

    def expert_bytes(self, layer: int) -> float:
        """Bytes of one expert of an MoE layer.

        Raises
        ------
        VarError
            If they are not known.
        """
        known = self.experts[layer].bytes_each
        if known is None:
            raise VarError(f"{self.name}: the bytes of an expert were not recorded; give expert_bytes")
        return known

    def expert_parameters(self, layer: int) -> float:
        """Parameters of one expert of an MoE layer.

        Raises
        ------
        VarError
            If they are not known.
        """
        each = self.experts[layer].each
        if each is None:
            raise VarError(f"{self.name}: the size of its experts was not recorded; it needs the model itself")
        return each.parameters

    @property
    def total_parameters(self) -> float:
        """Parameters of the whole model."""
        return self._parameters(lambda experts: experts.number) + self.elsewhere.parameters

    @property
    def active_parameters(self) -> float:
        """Parameters that one token is given to, the whole table of embeddings among them.

        Some publish this number without the table: take away ``embedding.parameters``.
        """
        return self._parameters(lambda experts: experts.top_k)

    def _parameters(self, counted: Any) -> float:
        outside = self.embedding.parameters + self.rest.parameters
        head = 0.0 if self.head is None or self.tied else self.head.parameters
        layers = sum(layer.weights.parameters for layer in self.layers)
        chosen = sum(counted(experts) * self.expert_parameters(place) for place, experts in enumerate(self.experts))
        return outside + head + layers + chosen

    @property
    def weight_bytes(self) -> float:
        """Memory of all weights.

        Raises
        ------
        VarError
            If not all are known.
        """
        chosen = sum(experts.number * self.expert_parameters(place) for place, experts in enumerate(self.experts))
        stored = sum(experts.number * self.expert_bytes(place) for place, experts in enumerate(self.experts))
        return (self.total_parameters - chosen) * self.dtype_bytes + stored

    def with_expert_bytes(self, bytes_a_parameter: float) -> "ModelShape":
        """The same model with experts stored in another precision (4.25 / 8 for MXFP4, 1 for FP8)."""
        return replace(
            self,
            layers=tuple(
                layer
                if layer.experts is None or layer.experts.each is None
                else replace(
                    layer,
                    experts=replace(layer.experts, bytes_each=layer.experts.each.parameters * bytes_a_parameter),
                )
                for layer in self.layers
            ),
        )

    def with_sizes(self, expert_bytes: Sequence[int]) -> "ModelShape":
        """The same model with so many bytes of an expert of each MoE layer."""
        sizes = dict(zip(self.moe_places, expert_bytes, strict=True))
        return replace(
            self,
            layers=tuple(
                layer
                if layer.experts is None
                else replace(layer, experts=replace(layer.experts, bytes_each=float(sizes[place])))
                for place, layer in enumerate(self.layers)
            ),
        )

    def require_all(self) -> None:
        """Refuse a shape of which only the experts are known.

        Raises
        ------
        VarError
            If so.
        """
        if self.recorded:
            raise VarError(
                f"{self.name}: was recorded elsewhere, so that only its experts are known; counting its costs needs "
                "the model itself (add it under models)"
            )


def shape_of_recorded(
    name: str, layers: int, experts: int, top_k: int, expert_bytes: Sequence[int] | None = None
) -> ModelShape:
    """Give what is known of the shape of a model whose routing was recorded elsewhere: its experts.

    Parameters
    ----------
    name : str
        The model's.
    layers, experts, top_k : int
        L, E, k.
    expert_bytes : sequence of int or None, optional
        Bytes of one expert of each MoE layer.

    Raises
    ------
    VarError
        If `expert_bytes` are not one positive number a layer.
    """
    if expert_bytes is not None and (len(expert_bytes) != layers or min(expert_bytes) <= 0):
        raise VarError(
            f"{name}: expert_bytes must be one positive number for each of {layers} MoE layers; got {len(expert_bytes)}"
        )
    sizes: Sequence[int | None] = [None] * layers if expert_bytes is None else expert_bytes
    return ModelShape(
        name=name,
        dtype_bytes=2.0,
        hidden=None,
        vocabulary=None,
        embedding=Weights(),
        head=None,
        tied=False,
        rest=Weights(),
        elsewhere=Weights(),
        layers=tuple(
            LayerShape(f"layer {layer}", experts=Experts(experts, top_k, None, size))
            for layer, size in enumerate(sizes)
        ),
        recorded=True,
    )
