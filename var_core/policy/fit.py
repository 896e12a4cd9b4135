"""Making a policy's tables: fitted on one split, and what of them the fast path takes."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from var_core.errors import VarError
from var_core.policy.fitting import Entries, ExpertSums, fit_entries, like_parents
from var_core.policy.recorded import RecordedDecisions, read_decisions
from var_core.policy.tables import PolicyTables, assemble, pair_keys, token_only
from var_core.routing.batch import RouterLayout

_CONSTANT = 1e-3
"""Spread of the sum of a decision's weights, relative to it, below which it is taken for a constant."""


@dataclass(frozen=True)
class Minimums:
    """Decisions of the fitting split below which there is no entry: by token id, and by pair of context and token."""

    token: int = 1
    pair: int = 2


@dataclass(frozen=True)
class Pairs:
    """How tables by context and token are fitted.

    Attributes
    ----------
    most : int
        Most pairs, those that occur most often; which of them pay is found out by calibration.
    positions : tuple of int
        As :attr:`var_core.policy.tables.PolicyTables.positions`; empty for the token before everywhere.
    like_token : float
        Decisions as its token's that are added to each pair's own.
    """

    most: int = 1_000_000
    positions: tuple[int, ...] = (0, 1, 2, 4)
    like_token: float = 2.0


def fit_tables(
    statistics: Path,
    layout: RouterLayout,
    vocabulary: int,
    traces: Sequence[Path] = (),
    minimums: Minimums = Minimums(),
    *,
    isolate_documents: bool,
    pairs: Pairs = Pairs(),
    totals_of: Sequence[Path] = (),
    domains: Collection[str] | None = None,
) -> PolicyTables:
    """Fit tables to a split: by token id from its statistics, by context and token from its trace.

    Parameters
    ----------
    statistics : Path
        Folder of the split's merged statistics.
    layout : RouterLayout
    vocabulary : int
        V.
    traces : sequence of Path, optional
        The split's trace; without it there are no tables by context.
    minimums : Minimums, optional
    isolate_documents : bool
        Whether positions restarted with every document.
    pairs : Pairs, optional
    totals_of : sequence of Path, optional
        Where there is no trace of the split: one of another, that says what the router's weights sum to, so that
        entries' weights are made to. Without either they are not.
    domains : collection of str, optional
        Only text of these domains.

    Returns
    -------
    PolicyTables
        Of which the fast path takes nothing yet.
    """
    tokens, everything, by_pair = [], [], []
    for layer, shape in enumerate(layout.layers):
        sums = _token_sums(statistics, layer, domains)
        known = traces or totals_of
        read = read_decisions(known, layer, shape.experts, shape.top_k, isolate_documents, domains) if known else None
        recorded, total = read if traces else None, None if read is None else constant_sum(read)
        everywhere = ExpertSums.of(np.zeros_like(sums.key), sums.expert, sums.chosen, sums.weight_sum)
        tokens.append(_fitted(sums, layout, layer, total, minimums.token))
        everything.append(_fitted(everywhere, layout, layer, total, 1))
        if recorded is not None:
            if recorded.weights is None:
                raise VarError(f"{traces[0].parent}: the trace has no weights; a policy's tables need them")
            own = _pair_sums(recorded, vocabulary, shape.experts, minimums.pair, pairs)
            keys = np.unique(own.key)
            made_up = like_parents(keys, keys % vocabulary, sums, shape.top_k, pairs.like_token)
            by_pair.append(_fitted(own, layout, layer, total, 1, made_up))
    positions = pairs.positions if by_pair else ()
    return assemble(vocabulary, layout.experts, tokens, everything, by_pair, positions)


def constant_sum(decisions: RecordedDecisions) -> float | None:
    """What the weights of every decision add up to; None where that differs, or they were not recorded."""
    if decisions.weights is None or not len(decisions):
        return None
    sums = decisions.weights.sum(axis=1, dtype=np.float64)
    middle = float(np.median(sums))
    return middle if np.abs(sums - middle).max() <= _CONSTANT * abs(middle) else None


def _token_sums(statistics: Path, layer: int, domains: Collection[str] | None) -> ExpertSums:
    wanted: list[tuple[str, str, Any]] = [("layer", "=", layer)]
    if domains is not None:
        wanted.append(("domain", "in", list(domains)))
    columns = ["layer", "token_id", "expert", "chosen", "weight_sum"]
    rows = pq.read_table(statistics / "expert_counts.parquet", columns=columns, filters=wanted)
    if not len(rows):
        raise VarError(f"{statistics}: no counts of layer {layer} by token id; a policy's tables need them")
    if rows["weight_sum"].null_count:
        raise VarError(f"{statistics}: weights were not recorded; a policy's tables need them")
    key, expert = (rows[name].to_numpy().astype(np.int64) for name in ("token_id", "expert"))
    return ExpertSums.of(key, expert, rows["chosen"].to_numpy(), rows["weight_sum"].to_numpy())


def _pair_sums(recorded: RecordedDecisions, vocabulary: int, width: int, minimum: int, pairs: Pairs) -> ExpertSums:
    """Decisions by pair of context and token, of the pairs that occur most often."""
    assert recorded.weights is not None
    positions = torch.tensor(pairs.positions, dtype=torch.int64)
    key = pair_keys(*recorded.tokens(), positions, vocabulary).numpy()
    found, place, n = np.unique(key, return_inverse=True, return_counts=True)
    n[(found < 0) | (n < minimum)] = 0
    n[np.argsort(-n, kind="stable")[pairs.most :]] = 0
    kept = n[place] > 0
    return ExpertSums.of_decisions(key[kept], recorded.experts[kept], recorded.weights[kept].astype(float), width)


def _fitted(
    sums: ExpertSums,
    layout: RouterLayout,
    layer: int,
    total: float | None,
    minimum: int,
    made_up: ExpertSums | None = None,
) -> Entries:
    """Entries in the slots, and with the empty slots, of the whole layout."""
    shape = layout.layers[layer]
    entries = fit_entries(sums, shape.experts, shape.top_k, total, minimum, made_up)
    more = ((0, 0), (0, layout.top_k - shape.top_k))
    experts = np.where(entries.experts == shape.experts, layout.experts, entries.experts)
    experts = np.pad(experts, more, constant_values=layout.experts)
    return Entries(entries.key, entries.n, experts, np.pad(entries.weights, more))


def take_agreeing(tables: PolicyTables, threshold: float | Sequence[float]) -> PolicyTables:
    """Let the fast path take the decisions of rows whose agreement is at least a threshold.

    What it takes at a higher threshold it also takes at a lower one, since a decision's row does not depend on it.

    Parameters
    ----------
    tables : PolicyTables
        Calibrated.
    threshold : float or sequence of float
        For all layers, or one for each.
    """
    usable = tables.present & (tables.agreement >= _by_layer(threshold).float())
    # The row for everything is for want of a better one, never the fast path's own choice.
    usable[:, -1] = False
    return replace(tables, usable=usable)


def take_classic(
    tables: PolicyTables,
    n: torch.Tensor,
    entropy: torch.Tensor,
    frequency_threshold: int | Sequence[int],
    entropy_threshold: float | Sequence[float],
) -> PolicyTables:
    """Let the fast path take token ids by the classic predicate: frequent, and of low mean router entropy.

    The classic policy knows no contexts, so the tables of pairs are left out.

    Parameters
    ----------
    tables : PolicyTables
    n, entropy : torch.Tensor
        [L, V]: occurrences and mean router entropy of the fitting split; NaN where there were none.
    frequency_threshold : int or sequence of int
        More occurrences than these, at all layers or each.
    entropy_threshold : float or sequence of float
        Less entropy than this, in nats.
    """
    tables = token_only(tables)
    taken = torch.zeros_like(tables.present)
    frequent, sure = n > _by_layer(frequency_threshold), entropy < _by_layer(entropy_threshold)
    taken[:, : tables.vocabulary] = frequent & sure
    return replace(tables, usable=taken & tables.present)


def _by_layer(threshold: float | Sequence[float]) -> torch.Tensor:
    """A threshold to compare a layer's row of values with, [1, 1] or [L, 1]."""
    return torch.tensor(threshold, dtype=torch.float64).reshape(-1, 1)


def take_listed(tables: PolicyTables, token_ids: Sequence[int]) -> PolicyTables:
    """Let the fast path take listed token ids, in whatever context, beside what it takes already.

    Raises
    ------
    VarError
        If the vocabulary has no such token id.
    """
    V = tables.vocabulary
    for token in token_ids:
        if not 0 <= token < V:
            raise VarError(f"policy.static_tokens: token id {token} is not one of 0 to {V - 1}")
    listed = torch.tensor(list(token_ids), dtype=torch.int64)
    of_row = torch.cat((torch.arange(V), tables.pairs % V))
    usable = tables.usable.clone()
    usable[:, :-1] |= tables.present[:, :-1] & torch.isin(of_row, listed)
    return replace(tables, usable=usable)
