"""Reducing routing decisions to exact counts and Welford moments, batch by batch, in bounded memory.

No history is kept: the state depends on the model's size and the vocabulary, or on a limit, and not on the number
of tokens. A batch is reduced where it lies: by tensor operations on a GPU, by compiled loops on a CPU.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pyarrow as pa
import torch

from var_core.errors import VarError
from var_core.routing.batch import RoutedBatch, RouterLayout
from var_core.statistics.by_loops import count_by_loops
from var_core.statistics.by_tensors import count_by_tensors
from var_core.statistics.counting_loops import sums_by_expert
from var_core.statistics.layer_state import LayerState
from var_core.statistics.quantities import Quantities
from var_core.statistics.tables import SCHEMAS
from var_core.statistics.token_state import TokenState

_MOST_TOKENS = 2**31 - 1


@dataclass(frozen=True)
class TokenBatch:
    """The tokens that a batch of decisions belongs to, flattened from S sequences of length T/S.

    Attributes
    ----------
    token_ids : torch.Tensor or None
        int64 [T]; None where they were not recorded.
    continues : torch.Tensor
        True where the next token is in the same document and sequence, bool [T]; the last is False.
    sequences : int
        S.
    """

    token_ids: torch.Tensor | None
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
        L layers, at most E experts.
    vocabulary : int
        V; 0 where token ids are not recorded.
    device : torch.device
        Where the state lives and batches are reduced.
    seed : int, optional
        Seed of the within-sequence shuffle behind ``next_first_shuffled``.
    max_state_bytes : int or None, optional
        Limit of the memory for what is kept by token id. None: as much as it takes. When a batch no longer fits
        (:meth:`has_room`), the tables go to disk, the state is reset, and the parts are merged at the end.
    logits, weights : bool, optional
        Whether batches have them.
    loops : bool or None, optional
        Count by compiled loops, which only a CPU can, or by tensor operations; None: by loops on a CPU.
    """

    def __init__(
        self,
        layout: RouterLayout,
        vocabulary: int,
        device: torch.device,
        seed: int = 0,
        max_state_bytes: int | None = None,
        logits: bool = True,
        weights: bool = True,
        loops: bool | None = None,
    ) -> None:
        self._loops = device.type == "cpu" if loops is None else loops
        self.layout, self.device = layout, device
        self._seed, self._logits, self._weights = seed, logits, weights
        self._by_token = vocabulary > 0
        self._tokens = TokenState(layout, max(vocabulary, 1), device, max_state_bytes)
        self._layers = LayerState(layout, device)

    @property
    def nonfinite(self) -> torch.Tensor:
        """Decisions left out so far because a logit was NaN or infinite, int64 [L]."""
        return self._layers.nonfinite

    def has_room(self, token_ids: torch.Tensor) -> bool:
        """Whether a batch of these tokens fits into the state; if not, put the tables on disk and reset first.

        Counts by token id are 32 bits wide, so a state that goes on for 2**31 tokens has no room either. Where token
        ids are not recorded, only the number of `token_ids` matters.
        """
        room = _MOST_TOKENS - self._layers.tokens
        return len(token_ids) <= room and (not self._by_token or self._tokens.has_room(token_ids))

    def state(self) -> dict[str, torch.Tensor]:
        """The state's tensors by name, for a checkpoint; not copies."""
        return {**self._tokens.state(), **self._layers.state()}

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Continue from a state that :meth:`state` gave.

        Raises
        ------
        VarError
            If names or shapes are not those of this accumulator.
        """
        own = self.state()
        by_layer = self._layers.state()
        fits = state.keys() == own.keys() and all(state[name].shape == by_layer[name].shape for name in by_layer)
        if not fits or not self._tokens.load_state({name: state[name] for name in own.keys() - by_layer.keys()}):
            raise VarError("a saved accumulator state does not have the shape of this model and vocabulary")
        for name, tensor in by_layer.items():
            tensor.copy_(state[name])

    def reset(self) -> None:
        """Forget everything."""
        self._tokens.reset()
        self._layers.reset()

    def update(self, tokens: TokenBatch, batch: RoutedBatch, shuffle_index: int) -> Quantities | None:
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
        Quantities or None
            Of the batch's decisions, for the trace; None without logits.

        Raises
        ------
        VarError
            If the batch alone has more token ids than fit into the limit; nothing is counted then.
        """
        assert (batch.logits is not None) == self._logits and (batch.weights is not None) == self._weights
        rows = self._tokens.rows_of(self._ids(tokens, batch))
        # One order for all sequences of the batch: what matters is that tokens get strangers for partners.
        generator = torch.Generator().manual_seed((self._seed << 32) + shuffle_index)
        order = torch.randperm(len(rows) // tokens.sequences, generator=generator).to(self.device)
        count = count_by_loops if self._loops else count_by_tensors
        return count(batch, self.layout, rows, tokens.continues, order, self._tokens, self._layers)

    def tables(self, domain: str) -> dict[str, pa.Table]:
        """The statistics as the tables of :mod:`var_core.statistics.tables`, sparse and sorted."""
        parts = list(self.tables_by_layer(domain))
        return {kind: pa.concat_tables([part[kind] for part in parts]) for kind in SCHEMAS}

    def tables_by_layer(self, domain: str) -> Iterator[dict[str, pa.Table]]:
        """The same, one layer after another, so that only one layer's rows are in memory."""
        for layer, shape in enumerate(self.layout.layers):
            by_token = self._tokens.tables(layer, domain, self._logits, self._weights)
            first = weight_sum = None
            if self._weights:
                rows = by_token["expert_counts"]
                expert, firsts, weights = (rows[name].to_numpy() for name in ("expert", "first", "weight_sum"))
                first, weight_sum = sums_by_expert(expert, firsts, weights, shape.experts)
            if not self._by_token:
                by_token = {kind: table.slice(0, 0) for kind, table in by_token.items()}
            yield {**by_token, "layer_stats": self._layers.table(layer, domain, self._logits, first, weight_sum)}

    def _ids(self, tokens: TokenBatch, batch: RoutedBatch) -> torch.Tensor:
        """Token ids, or one and the same for all where they are not recorded or not wanted."""
        if self._by_token:
            assert tokens.token_ids is not None
            return tokens.token_ids
        return torch.zeros(batch.experts.shape[1], dtype=torch.int64, device=self.device)
