"""The statistics of one run, read from the warehouse's tables into numpy arrays, a layer at a time."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from var_core.errors import VarError
from var_core.hypotheses.recorded import Recorded

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

_WORD_BITS = 64


@dataclass(frozen=True)
class Layer:
    """One MoE layer."""

    layer: int
    experts: int
    top_k: int


@dataclass(frozen=True)
class TokenMoments:
    """Occurrences of each type and the sum of router entropy over them."""

    n: Ints
    """shape (V,) or (S, V)"""
    entropy_sum: Floats
    """same shape, nats"""

    @property
    def mean_router_entropy(self) -> Floats:
        """Mean router entropy of each type in nats; NaN where it did not occur."""
        return np.divide(self.entropy_sum, self.n, out=np.full(self.n.shape, np.nan), where=self.n > 0)


@dataclass(frozen=True)
class ExpertCounts:
    """Exact counts of each type at one layer: shape (V, E), and n of shape (V,); first is 0 without weights."""

    n: Ints
    chosen: Ints
    first: Ints

    def without(self, part: "ExpertCounts") -> "ExpertCounts":
        """Leave a part out."""
        return ExpertCounts(self.n - part.n, self.chosen - part.chosen, self.first - part.first)


@dataclass(frozen=True)
class Heldout:
    """The held-out decisions of one layer, one after another: N of them, special tokens left out."""

    type_index: NDArray[np.int32]
    """row of the type tables, shape (N,)"""
    document: NDArray[np.int32]
    """shape (N,)"""
    domain: NDArray[np.int16]
    """index into ``RunData.domains``, shape (N,)"""
    masks: NDArray[np.uint64]
    """chosen experts as bits, shape (N, ceil(E / 64))"""
    first: NDArray[np.int16]
    """expert with the largest weight, shape (N,); -1 where weights were not recorded"""


def expert_masks(experts: NDArray[np.integer], count: int) -> NDArray[np.uint64]:
    """Turn sets of experts, shape (N, k), into bits, shape (N, ceil(count / 64)): intersections become ANDs."""
    masks = np.zeros((len(experts), -(-count // _WORD_BITS)), dtype=np.uint64)
    rows = np.arange(len(experts))
    for slot in range(experts.shape[1]):
        expert = experts[:, slot].astype(np.int64)
        masks[rows, expert // _WORD_BITS] |= np.uint64(1) << (expert % _WORD_BITS).astype(np.uint64)
    return masks


def weighted_sums(cells: NDArray[np.integer], weights: NDArray[np.generic], size: int) -> Floats:
    """Sum the weights that fall into each of `size` cells, in their order; shape (size,)."""
    return np.asarray(np.bincount(cells, weights=weights, minlength=size), dtype=np.float64)


class RunData:
    """Reads what the hypotheses need of one run.

    Token types are the token ids that occur in the capture or held-out split, in ascending order; special tokens
    are left out unless nothing else occurs. All arrays over types are in that order; they are empty for a run whose
    token ids were not recorded, see ``recorded``.

    Parameters
    ----------
    connection : duckdb.DuckDBPyConnection
        A database with the warehouse's tables and views.
    run : str
        The run's name.

    Raises
    ------
    VarError
        If the run is not in the database, or has no layers, or has a vocabulary of which no token was counted.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, run: str) -> None:
        self._connection, self.run = connection, run
        self.layers = self._read_layers()
        tokens = self._query(
            "SELECT token_id, special FROM tokens"
            " WHERE run = $run AND coalesce(capture_count, 0) + coalesce(heldout_count, 0) > 0 ORDER BY token_id"
        )
        token_ids, special = _column(tokens, "token_id", np.int64), _column(tokens, "special", np.bool_)
        if not len(token_ids) and len(self._query("SELECT 1 FROM tokens WHERE run = $run LIMIT 1")):
            raise VarError(f"run {run}: no token was counted; run its statistics stage again")
        self.special_kept = bool(len(special) and special.all())
        kept = np.ones_like(special) if self.special_kept else ~special
        self.token_ids: Ints = token_ids[kept]
        self.special_left_out = int((~kept).sum())
        self._index = np.full(int(token_ids.max(initial=0)) + 1, -1, dtype=np.int64)
        self._index[self.token_ids] = np.arange(len(self.token_ids))
        names = self._query("SELECT DISTINCT domain FROM token_stats WHERE run = $run ORDER BY domain")
        self.domains: tuple[str, ...] = tuple(names.column("domain").to_pylist())

    @property
    def types(self) -> int:
        """Number of token types, V."""
        return len(self.token_ids)

    @cached_property
    def recorded(self) -> Recorded:
        """Which parts of the run there are."""
        row = self._query(
            "SELECT (SELECT count(router_entropy_mean) > 0 FROM token_stats WHERE run = $run) AS logits,"
            " (SELECT count(first) > 0 FROM expert_counts WHERE run = $run) AS weights,"
            " (SELECT coalesce(sum(heldout_count), 0) > 0 FROM tokens WHERE run = $run) AS heldout"
        ).to_pylist()[0]
        return Recorded(token_ids=self.types > 0, **row)

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """The run's row of ``runs``, with its provenance record parsed."""
        rows = self._query("SELECT * FROM runs WHERE run = $run").to_pylist()
        if not rows:
            return {}
        row: dict[str, Any] = rows[0]
        if isinstance(row.get("provenance"), str):
            row["provenance"] = json.loads(row["provenance"])
        return row

    @cached_property
    def shards(self) -> tuple[int, ...]:
        """Numbers of the capture split's shards."""
        rows = self._query(
            "SELECT DISTINCT shard FROM shard_token_stats WHERE run = $run AND split = 'capture' ORDER BY shard"
        )
        return tuple(rows.column("shard").to_pylist())

    @cached_property
    def has_shard_counts(self) -> bool:
        """Whether expert counts are there shard by shard, so that intervals for measures of them are possible."""
        names = self._connection.sql("SELECT table_name FROM information_schema.tables").to_arrow_table()
        if "shard_expert_counts" not in names.column("table_name").to_pylist():
            return False
        return len(self._query("SELECT shard FROM shard_expert_counts WHERE run = $run LIMIT 1")) > 0

    def token_moments(self, layer: int) -> TokenMoments:
        """Occurrences and router entropy in the capture split, all domains; shape (V,)."""
        # Ordered, so that the floating-point sums are the same in every run of this code.
        rows = self._query(
            "SELECT token_id, n, router_entropy_mean AS entropy FROM token_stats"
            " WHERE run = $run AND split = 'capture' AND layer = $layer ORDER BY token_id, domain",
            layer=layer,
        )
        moments = self._moments(rows, np.zeros(len(rows), dtype=np.int64), 1)
        return TokenMoments(moments.n[0], moments.entropy_sum[0])

    def left_out_moments(self, layer: int, whole: TokenMoments) -> TokenMoments:
        """:meth:`token_moments` without each capture shard in turn; shape (S, V), or (0, V) for a single shard.

        Raises
        ------
        VarError
            If the shards do not add up to `whole`.
        """
        rows = self._query(
            "SELECT shard, token_id, n, router_entropy_mean AS entropy FROM shard_token_stats"
            " WHERE run = $run AND split = 'capture' AND layer = $layer ORDER BY shard, token_id, domain",
            layer=layer,
        )
        shard = np.searchsorted(np.asarray(self.shards), _column(rows, "shard", np.int64))
        parts = self._moments(rows, shard, len(self.shards))
        if not np.array_equal(parts.n.sum(axis=0), whole.n):
            raise VarError(
                f"run {self.run}: the shards' token statistics of layer {layer} do not add up to the merged ones;"
                " run the statistics stage again"
            )
        several = slice(None) if len(self.shards) > 1 else slice(0)
        return TokenMoments(whole.n - parts.n[several], whole.entropy_sum - parts.entropy_sum[several])

    def _moments(self, rows: pa.Table, group: Ints, groups: int) -> TokenMoments:
        index = self._index[_column(rows, "token_id", np.int64)]
        kept = index >= 0
        cell = group[kept] * self.types + index[kept]
        n = _column(rows, "n", np.int64)[kept]
        total = np.zeros(groups * self.types, dtype=np.int64)
        np.add.at(total, cell, n)
        entropy_sum = weighted_sums(cell, n * _column(rows, "entropy", np.float64)[kept], groups * self.types)
        return TokenMoments(total.reshape(groups, -1), entropy_sum.reshape(groups, -1))

    def expert_counts(self, layer: Layer, split: str = "capture", domains: Sequence[str] | None = None) -> ExpertCounts:
        """Exact counts of a split, of some domains or all."""
        where = "" if domains is None else " AND list_contains($domains::VARCHAR[], domain)"
        named = {} if domains is None else {"domains": list(domains)}
        return self._counts("expert_counts", f"split = $split{where}", layer, split=split, **named)

    def load(self, layer: Layer) -> Ints:
        """Times that each expert was chosen in the capture split, whatever the token; shape (E,)."""
        rows = self._query(
            "SELECT chosen FROM expert_load WHERE run = $run AND split = 'capture' AND layer = $layer ORDER BY expert",
            layer=layer.layer,
        )
        return _column(rows, "chosen", np.int64)

    def left_out_counts(self, layer: Layer, counts: ExpertCounts) -> Iterator[ExpertCounts]:
        """Capture counts without each shard in turn, one at a time; nothing without counts of two shards.

        Raises
        ------
        VarError
            After the last one, if the shards do not add up to `counts`.
        """
        if not self.has_shard_counts or len(self.shards) < 2:
            return
        missing = counts.chosen.copy()
        for shard in self.shards:
            part = self._counts("shard_expert_counts", "split = 'capture' AND shard = $shard", layer, shard=shard)
            missing -= part.chosen
            yield counts.without(part)
        if missing.any():
            raise VarError(
                f"run {self.run}: the shards' expert counts of layer {layer.layer} do not add up to the merged ones;"
                " run the statistics stage again"
            )

    def _counts(self, table: str, where: str, layer: Layer, **named: Any) -> ExpertCounts:
        rows = self._query(
            "SELECT token_id, expert, sum(chosen)::BIGINT AS chosen, coalesce(sum(first), 0)::BIGINT AS first"
            f" FROM {table} WHERE run = $run AND layer = $layer AND {where} GROUP BY token_id, expert",
            layer=layer.layer,
            **named,
        )
        index, expert = self._index[_column(rows, "token_id", np.int64)], _column(rows, "expert", np.int64)
        kept = index >= 0
        counts = np.zeros((2, self.types, layer.experts), dtype=np.int64)
        for place, name in enumerate(("chosen", "first")):
            counts[place, index[kept], expert[kept]] = _column(rows, name, np.int64)[kept]
        chosen, first = counts
        return ExpertCounts(chosen.sum(axis=1) // layer.top_k, chosen, first)

    @cached_property
    def heldout_documents(self) -> NDArray[np.int32]:
        """Documents of the held-out trace, ascending, shape (D,)."""
        rows = self._query(
            "SELECT DISTINCT document FROM traces WHERE run = $run AND split = 'heldout' ORDER BY document"
        )
        return _column(rows, "document", np.int32)

    @cached_property
    def heldout_groups(self) -> NDArray[np.uint64]:
        """Hash of the name of the group of each of ``heldout_documents``, shape (D,).

        What belongs together (the docstrings and the code of a package) is halved and resampled together, as it was
        split together. A document that the table ``documents`` does not know is a group of its own.
        """
        rows = self._query('SELECT document, "group" FROM documents WHERE run = $run')
        names = dict(zip(rows["document"].to_pylist(), rows["group"].to_pylist(), strict=True))
        keys = [f"group {names[d]}" if d in names else f"document {d}" for d in self.heldout_documents.tolist()]
        digests = [hashlib.sha256(key.encode()).digest()[:8] for key in keys]
        return np.array([int.from_bytes(digest, "little") for digest in digests], dtype=np.uint64)

    def heldout(self, layer: Layer) -> Heldout:
        """Held-out decisions of a layer, from the trace, in the trace's order.

        Raises
        ------
        VarError
            If the trace has no such layer, or names other numbers of experts than the layer's k.
        """
        rows = self._query(
            "SELECT document, token_id, list_position($domains::VARCHAR[], domain) - 1 AS domain, experts, weights"
            " FROM traces WHERE run = $run AND split = 'heldout' AND layer = $layer",
            layer=layer.layer,
            domains=list(self.domains),
        )
        if not len(rows):
            raise VarError(
                f"run {self.run}: no held-out trace of layer {layer.layer};"
                " add 'heldout' to capture.trace and capture again"
            )
        experts = _flat(rows, "experts")
        weights = _flat(rows, "weights") if self.recorded.weights else np.zeros(len(experts), dtype=np.float32)
        if len(experts) != len(rows) * layer.top_k or len(weights) != len(experts):
            raise VarError(
                f"run {self.run}: the held-out trace of layer {layer.layer} has decisions with other than"
                f" {layer.top_k} experts; capture it again"
            )
        experts, weights = experts.reshape(-1, layer.top_k), weights.reshape(-1, layer.top_k)
        token_id = _column(rows, "token_id", np.int64)
        known = token_id < len(self._index)
        index = np.where(known, self._index[np.where(known, token_id, 0)], -1)
        kept = index >= 0
        heaviest = weights == weights.max(axis=1, keepdims=True)
        first = np.where(heaviest, experts, np.iinfo(experts.dtype).max).min(axis=1)
        first = first if self.recorded.weights else np.full_like(first, -1)
        return Heldout(
            type_index=index[kept].astype(np.int32),
            document=_column(rows, "document", np.int32)[kept],
            domain=_column(rows, "domain", np.int16)[kept],
            masks=expert_masks(experts[kept], layer.experts),
            first=first[kept].astype(np.int16),
        )

    def _read_layers(self) -> tuple[Layer, ...]:
        rows = self._query("SELECT layer, experts, top_k FROM layers WHERE run = $run ORDER BY layer").to_pylist()
        if not rows:
            raise VarError(f"run {self.run}: is not in the database; run its statistics stage first")
        return tuple(Layer(**row) for row in rows)

    def _query(self, sql: str, **named: Any) -> pa.Table:
        return self._connection.sql(sql, params={"run": self.run, **named}).to_arrow_table()


def _column(table: pa.Table, name: str, kind: type[np.generic]) -> NDArray[Any]:
    """One column as a numpy array of the given type."""
    return table.column(name).to_numpy().astype(kind, copy=False)


def _flat(table: pa.Table, name: str) -> NDArray[Any]:
    """All values of a list column, row after row."""
    values: NDArray[Any] = table.column(name).combine_chunks().flatten().to_numpy()
    return values
