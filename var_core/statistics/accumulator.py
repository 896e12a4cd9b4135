"""Reducing routing decisions to exact counts and Welford moments, batch by batch, in bounded memory.

No history is kept: the state depends on the model's size and the vocabulary, not on the number of tokens.
Moments of a batch are computed in two passes over the batch and merged into the state by the formula of
Chan, Golub and LeVeque (1979), so nothing cancels.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from var_core.errors import VarError
from var_core.routing.batch import RoutedBatch, RouterLayout
from var_core.statistics.quantities import Quantities, decision_quantities, first_choice
from var_core.statistics.tables import (
    EXPERT_COUNTS,
    EXPERT_MATRIX_COLUMNS,
    LAYER_COUNT_COLUMNS,
    LAYER_STATS,
    QUANTITIES,
    TOKEN_STATS,
)


@dataclass(frozen=True)
class TokenBatch:
    """The tokens that a batch of decisions belongs to, flattened from S sequences of length T/S.

    Attributes
    ----------
    token_ids : torch.Tensor
        int64 [T].
    continues : torch.Tensor
        True where the next token is in the same document and sequence, bool [T]; the last is False.
    sequences : int
        S.
    """

    token_ids: torch.Tensor
    continues: torch.Tensor
    sequences: int

    @classmethod
    def from_sequences(cls, input_ids: torch.Tensor, document: torch.Tensor) -> "TokenBatch":
        """Flatten [S, T/S] token and document ids."""
        continues = torch.zeros_like(document, dtype=torch.bool)
        continues[:, :-1] = document[:, :-1] == document[:, 1:]
        return cls(input_ids.flatten().long(), continues.flatten(), input_ids.shape[0])


class Accumulator:
    """Exact, mergeable statistics of the decisions of L layers over V token ids and E experts.

    Parameters
    ----------
    layout : RouterLayout
        L layers, E experts.
    vocabulary : int
        V.
    device : torch.device
        Where the state lives and batches are reduced.
    seed : int, optional
        Seed of the within-sequence shuffle behind ``next_first_shuffled``.
    """

    def __init__(
        self,
        layout: RouterLayout,
        vocabulary: int,
        device: torch.device,
        seed: int = 0,
        max_state_bytes: int | None = None,
    ) -> None:
        layers, experts = len(layout), layout.experts
        self.layers, self.vocabulary, self.experts = layers, vocabulary, experts
        self.device, self.seed = device, seed
        whole, real = torch.int64, torch.float64
        shapes: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
            "n": ((layers, vocabulary), whole),
            "mean": ((len(QUANTITIES), layers, vocabulary), real),
            "m2": ((len(QUANTITIES), layers, vocabulary), real),
            "token_chosen": ((layers, vocabulary, experts), whole),
            "token_first": ((layers, vocabulary, experts), whole),
            "token_weight_sum": ((layers, vocabulary, experts), real),
            **dict.fromkeys(LAYER_COUNT_COLUMNS, ((layers,), whole)),
            **dict.fromkeys(EXPERT_MATRIX_COLUMNS, ((layers, experts, experts), whole)),
        }
        self._state = {name: torch.zeros(s, dtype=d, device=device) for name, (s, d) in shapes.items()}

    @staticmethod
    def state_bytes(layers: int, vocabulary: int, experts: int) -> int:
        """Memory that the state takes, in bytes."""
        per_token = 8 * (1 + 2 * len(QUANTITIES)) + 8 * 3 * experts
        return layers * (vocabulary * per_token + 8 * len(EXPERT_MATRIX_COLUMNS) * experts**2)

    @property
    def nonfinite(self) -> torch.Tensor:
        """Decisions left out so far because a logit was NaN or infinite, int64 [L]."""
        return self._state["nonfinite"]

    def state(self) -> dict[str, torch.Tensor]:
        """The state's tensors by name, for a checkpoint; not copies."""
        return self._state

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Continue from a state that :meth:`state` gave.

        Raises
        ------
        VarError
            If names or shapes are not those of this accumulator.
        """
        if {k: v.shape for k, v in state.items()} != {k: v.shape for k, v in self._state.items()}:
            raise VarError("a saved accumulator state does not have the shape of this model and vocabulary")
        for name, tensor in self._state.items():
            tensor.copy_(state[name])

    def reset(self) -> None:
        """Forget everything."""
        for tensor in self._state.values():
            tensor.zero_()

    def has_room(self, token_ids: torch.Tensor) -> bool:
        """Whether a batch of these tokens fits into the state; if not, put the tables on disk and reset first."""
        return True

    def update(self, tokens: TokenBatch, batch: RoutedBatch, shuffle_index: int) -> Quantities:
        """Count a batch.

        Parameters
        ----------
        tokens : TokenBatch
            T tokens.
        batch : RoutedBatch
            Their decisions at L layers.
        shuffle_index : int
            Number of this batch within the shard; with the seed it determines the shuffle, so that a resumed
            job draws the same one.

        Returns
        -------
        Quantities
            Of the batch's decisions, for the trace.
        """
        assert batch.logits is not None and batch.weights is not None
        quantities = decision_quantities(batch.logits, batch.experts)
        finite = quantities.finite
        first = first_choice(batch.experts, batch.weights)
        self._state["tokens"] += finite.sum(dim=1)
        self._state["nonfinite"] += (~finite).sum(dim=1)
        self._count_tokens(tokens, batch, batch.weights, quantities, first)
        multi_hot = torch.zeros(
            (self.layers, len(tokens.token_ids), self.experts), dtype=torch.float32, device=self.device
        )
        multi_hot.scatter_(-1, batch.experts, 1.0).mul_(finite[..., None])
        self._count_pairs_of_experts(multi_hot)
        self._count_next_first(tokens, first, finite, shuffle_index)
        self._count_repeats(tokens, multi_hot, first, finite)
        return quantities

    def _count_tokens(
        self,
        tokens: TokenBatch,
        batch: RoutedBatch,
        weights: torch.Tensor,
        quantities: Quantities,
        first: torch.Tensor,
    ) -> None:
        """Update the per-token moments and expert counts; only rows of tokens in the batch are touched."""
        state, L, E = self._state, self.layers, self.experts
        present, inverse = torch.unique(tokens.token_ids, return_inverse=True)
        U = len(present)
        kept = quantities.finite.flatten()
        cell = (torch.arange(L, device=self.device)[:, None] * U + inverse).flatten()[kept]
        n = torch.bincount(cell, minlength=L * U)
        before = state["n"][:, present].flatten()
        total = before + n
        # Whole numbers would divide into float32, and the merge would lose half its digits.
        share = n.double() / total.clamp_min(1)
        for q, values in enumerate(quantities.stacked()):
            x = values.flatten()[kept]
            mean = torch.bincount(cell, weights=x, minlength=L * U) / n.clamp_min(1)
            m2 = torch.bincount(cell, weights=(x - mean[cell]).square(), minlength=L * U)
            old_mean = state["mean"][q][:, present].flatten()
            delta = (mean - old_mean) * (n > 0)
            state["mean"][q][:, present] = (old_mean + delta * share).view(L, U)
            state["m2"][q][:, present] += (m2 + delta.square() * before * share).view(L, U)
        state["n"][:, present] = total.view(L, U)

        k = batch.experts.shape[-1]
        slot = (cell[:, None] * E + batch.experts.flatten(0, 1)[kept]).flatten()
        given = weights.flatten(0, 1)[kept].flatten().double()
        assert slot.numel() == cell.numel() * k
        shape = (L, U, E)
        state["token_chosen"][:, present] += torch.bincount(slot, minlength=L * U * E).view(shape)
        state["token_weight_sum"][:, present] += torch.bincount(slot, given, minlength=L * U * E).view(shape)
        top = cell * E + first.flatten()[kept]
        state["token_first"][:, present] += torch.bincount(top, minlength=L * U * E).view(shape)

    def _count_pairs_of_experts(self, multi_hot: torch.Tensor) -> None:
        """Co-activation within a layer, and joint choices of adjacent layers; sums below 2**24 are exact in float32."""
        across = multi_hot.transpose(1, 2)
        self._state["coactivation"] += torch.bmm(across, multi_hot).long()
        self._state["next_chosen"][:-1] += torch.bmm(across[:-1], multi_hot[1:]).long()

    def _count_next_first(
        self, tokens: TokenBatch, first: torch.Tensor, finite: torch.Tensor, shuffle_index: int
    ) -> None:
        """Joint first choices of adjacent layers, real and with the next layer shuffled within the sequence."""
        if self.layers < 2:
            return
        generator = torch.Generator().manual_seed((self.seed << 32) + shuffle_index)
        length = len(tokens.token_ids) // tokens.sequences
        order = torch.rand((tokens.sequences, length), generator=generator).argsort(dim=1)
        order = (order + torch.arange(tokens.sequences)[:, None] * length).flatten().to(self.device)
        for name, following in (("next_first", slice(None)), ("next_first_shuffled", order)):
            both = finite[:-1] & finite[1:][:, following]
            joint = first[:-1] * self.experts + first[1:][:, following]
            joint = joint + torch.arange(self.layers - 1, device=self.device)[:, None] * self.experts**2
            counted = torch.bincount(joint[both], minlength=(self.layers - 1) * self.experts**2)
            self._state[name][:-1] += counted.view(self.layers - 1, self.experts, self.experts)

    def _count_repeats(
        self, tokens: TokenBatch, multi_hot: torch.Tensor, first: torch.Tensor, finite: torch.Tensor
    ) -> None:
        """Choices shared by consecutive tokens of one document."""
        paired = tokens.continues[:-1] & finite[:, :-1] & finite[:, 1:]
        overlap = (multi_hot[:, :-1] * multi_hot[:, 1:]).sum(dim=-1).long() * paired
        self._state["pairs"] += paired.sum(dim=1)
        self._state["first_repeats"] += ((first[:, :-1] == first[:, 1:]) & paired).sum(dim=1)
        self._state["any_repeats"] += (overlap > 0).sum(dim=1)
        self._state["slot_overlaps"] += overlap.sum(dim=1)

    def tables(self, domain: str) -> dict[str, pa.Table]:
        """The statistics as the tables of :mod:`var_core.statistics.tables`, sparse and sorted."""
        state = {name: tensor.cpu().numpy() for name, tensor in self._state.items()}
        return {
            "token_stats": _token_stats(state, domain),
            "expert_counts": _expert_counts(state, domain),
            "layer_stats": _layer_stats(state, domain),
        }


def _token_stats(state: dict[str, np.ndarray], domain: str) -> pa.Table:
    layer, token = np.nonzero(state["n"])
    moments = {
        f"{quantity}_{moment}": state[moment][q, layer, token]
        for q, quantity in enumerate(QUANTITIES)
        for moment in ("mean", "m2")
    }
    columns = {"layer": layer, "token_id": token, "n": state["n"][layer, token], **moments}
    return _with_domain(columns, domain, TOKEN_STATS)


def _expert_counts(state: dict[str, np.ndarray], domain: str) -> pa.Table:
    layer, token, expert = at = np.nonzero(state["token_chosen"])
    columns = {
        "layer": layer,
        "token_id": token,
        "expert": expert,
        "chosen": state["token_chosen"][at],
        "first": state["token_first"][at],
        "weight_sum": state["token_weight_sum"][at],
    }
    return _with_domain(columns, domain, EXPERT_COUNTS)


def _layer_stats(state: dict[str, np.ndarray], domain: str) -> pa.Table:
    layers = len(state["tokens"])
    columns: dict[str, object] = {"layer": np.arange(layers)}
    columns |= {name: state[name].copy() for name in LAYER_COUNT_COLUMNS}  # Arrow would share the state's memory
    columns |= {name: list(state[f"token_{name}"].sum(axis=1)) for name in ("chosen", "first", "weight_sum")}
    for name in EXPERT_MATRIX_COLUMNS:
        rows: list[np.ndarray | None] = list(state[name].reshape(layers, -1))
        if name.startswith("next_"):
            rows[-1] = None
        columns[name] = rows
    return _with_domain(columns, domain, LAYER_STATS)


def _with_domain(columns: Mapping[str, object], domain: str, schema: pa.Schema) -> pa.Table:
    rows = len(columns["layer"])  # type: ignore[arg-type]
    arrays = {"domain": pa.array([domain] * rows, pa.string()), **columns}
    return pa.table([pa.array(arrays[field.name], field.type) for field in schema], schema=schema)
