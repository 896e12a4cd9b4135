"""Making a policy's tables: fitted on one split, their agreement estimated on another."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from var_core.errors import VarError
from var_core.hypotheses.agreement import credible_agreement
from var_core.policy.fitting import Entries, ExpertSums, fit_entries
from var_core.policy.recorded import (
    POSITION_STARTS,
    RecordedDecisions,
    position_class,
    read_decisions,
    recall_at_k,
    set_agreement,
)
from var_core.policy.tables import PolicyTables, assemble
from var_core.routing.batch import RouterLayout

Measure = Literal["set_agreement", "recall_at_k"]
_CONSTANT = 1e-3
"""Spread of the sum of a decision's weights, relative to it, below which it is taken for a constant."""


@dataclass(frozen=True)
class Minimums:
    """Decisions of the fitting split below which there is no entry: by token id, and by pair."""

    token: int = 1
    pair: int = 2


def fit_tables(
    statistics: Path,
    layout: RouterLayout,
    vocabulary: int,
    traces: Sequence[Path] = (),
    minimums: Minimums = Minimums(),
) -> PolicyTables:
    """Fit tables to a split: by token id from its statistics, by pair and position from its trace.

    Parameters
    ----------
    statistics : Path
        Folder of the split's merged statistics.
    layout : RouterLayout
    vocabulary : int
        V.
    traces : sequence of Path, optional
        The split's trace; without it there are no tables by pair and position, and weights are not made to sum to
        what the router's sum to.
    minimums : Minimums, optional

    Returns
    -------
    PolicyTables
        Of which the fast path takes nothing yet.
    """
    tokens, everything, pairs, positions = [], [], [], []
    for layer, shape in enumerate(layout.layers):
        sums = _token_sums(statistics, layer)
        recorded = read_decisions(traces, layer, shape.experts, shape.top_k) if traces else None
        total = None if recorded is None else constant_sum(recorded)

        everywhere = ExpertSums.of(np.zeros_like(sums.key), sums.expert, sums.chosen, sums.weight_sum)
        tokens.append(_fitted(sums, layout, layer, total, minimums.token))
        everything.append(_fitted(everywhere, layout, layer, total, 1))
        if recorded is not None:
            by_pair = _sums(recorded, pair_key(recorded, vocabulary), shape.experts)
            pairs.append(_fitted(by_pair, layout, layer, total, minimums.pair))
            by_position = _sums(recorded, position_class(recorded.position, POSITION_STARTS), shape.experts)
            positions.append(_fitted(by_position, layout, layer, total, 1))
    return assemble(vocabulary, layout.experts, tokens, everything, pairs, positions)


def pair_key(decisions: RecordedDecisions, vocabulary: int) -> NDArray[np.int64]:
    """Key of each decision's pair of tokens; -1 at the start of a document."""
    return np.where(decisions.previous >= 0, decisions.previous * vocabulary + decisions.token_id, -1)


def constant_sum(decisions: RecordedDecisions) -> float | None:
    """What the weights of every decision add up to; None where that differs, or they were not recorded."""
    if decisions.weights is None or not len(decisions):
        return None
    sums = decisions.weights.sum(axis=1, dtype=np.float64)
    middle = float(np.median(sums))
    return middle if np.abs(sums - middle).max() <= _CONSTANT * abs(middle) else None


def _token_sums(statistics: Path, layer: int) -> ExpertSums:
    rows = pq.read_table(
        statistics / "expert_counts.parquet",
        columns=["layer", "token_id", "expert", "chosen", "weight_sum"],
        filters=[("layer", "=", layer)],
    )
    if not len(rows):
        raise VarError(f"{statistics}: no counts of layer {layer} by token id; a policy's tables need them")
    if rows["weight_sum"].null_count:
        raise VarError(f"{statistics}: weights were not recorded; a policy's tables need them")
    key, expert, chosen = (rows[name].to_numpy().astype(np.int64) for name in ("token_id", "expert", "chosen"))
    return ExpertSums.of(key, expert, chosen, rows["weight_sum"].to_numpy())


def _sums(decisions: RecordedDecisions, key: NDArray[np.int64], width: int) -> ExpertSums:
    assert decisions.weights is not None
    kept = key >= 0
    return ExpertSums.of_decisions(key[kept], decisions.experts[kept], decisions.weights[kept].astype(float), width)


def _fitted(sums: ExpertSums, layout: RouterLayout, layer: int, total: float | None, minimum: int) -> Entries:
    """Entries in the slots, and with the empty slots, of the whole layout."""
    shape = layout.layers[layer]
    entries = fit_entries(sums, shape.experts, shape.top_k, total, minimum)
    more = ((0, 0), (0, layout.top_k - shape.top_k))
    experts = np.where(entries.experts == shape.experts, layout.experts, entries.experts)
    experts = np.pad(experts, more, constant_values=layout.experts)
    return Entries(entries.key, entries.n, experts, np.pad(entries.weights, more))


def calibrate(
    tables: PolicyTables,
    layout: RouterLayout,
    traces: Sequence[Path],
    measure: Measure = "set_agreement",
) -> PolicyTables:
    """Estimate the agreement of every entry on a split that the tables were not fitted on.

    Few decisions say little of an entry; its own mean is drawn towards that of its kind
    (:func:`var_core.hypotheses.agreement.credible_agreement`). Entries that do not occur there are not estimated.

    Parameters
    ----------
    tables : PolicyTables
    layout : RouterLayout
    traces : sequence of Path
        Of the calibration split.
    measure : {"set_agreement", "recall_at_k"}, optional
    """
    agreement = np.full(tables.agreement.shape, np.nan, np.float32)
    V, P = tables.vocabulary, len(tables.pairs)
    first = np.cumsum([0, V, P, len(tables.positions), 1])
    for layer, shape in enumerate(layout.layers):
        recorded = read_decisions(traces, layer, shape.experts, shape.top_k)
        tokens = (torch.from_numpy(part) for part in (recorded.token_id, recorded.previous, recorded.position))
        pair, token, position = tables.rows(*tokens).candidates.numpy()
        everything = np.full(len(recorded), first[-1] - 1)
        for kind, row in enumerate((token, pair, position, everything)):
            own = slice(first[kind], first[kind + 1])
            agreement[layer, own] = _estimate(tables, layer, layout, recorded, row, own, measure)
    return replace(tables, agreement=torch.from_numpy(agreement))


def _estimate(
    tables: PolicyTables,
    layer: int,
    layout: RouterLayout,
    recorded: RecordedDecisions,
    row: NDArray[np.int64],
    kind: slice,
    measure: Measure,
) -> NDArray[np.float64]:
    """Agreement of the rows of one kind, of which each decision has the one given, or -1."""
    shape, size = layout.layers[layer], kind.stop - kind.start
    kept = (row >= 0) & tables.present[layer].numpy()[row]
    given = tables.experts[layer].numpy()[row[kept], : shape.top_k].astype(np.int64)
    given = np.where(given == layout.experts, shape.experts, given)
    learned = recorded.experts[kept]
    score = set_agreement(given, learned) if measure == "set_agreement" else recall_at_k(given, learned, shape.experts)
    own = row[kept] - kind.start
    n = np.bincount(own, minlength=size)
    agreed, squares = (np.bincount(own, values, minlength=size).astype(np.float64) for values in (score, score**2))
    return np.where(n > 0, credible_agreement(agreed, squares, n), np.nan)


def take_agreeing(tables: PolicyTables, threshold: float) -> PolicyTables:
    """Let the fast path take entries whose agreement is at least a threshold, and pairs only where they do better.

    Parameters
    ----------
    tables : PolicyTables
        Calibrated.
    threshold : float
    """
    good = tables.present & (tables.agreement >= threshold)
    V, P = tables.vocabulary, len(tables.pairs)
    if P:
        token = tables.pairs % V
        pair, own = tables.agreement[:, V : V + P], tables.agreement[:, token]
        good[:, V : V + P] &= ~((own >= pair) & good[:, token])
    return replace(tables, usable=_without_everything(good))


def take_classic(
    tables: PolicyTables, n: torch.Tensor, entropy: torch.Tensor, frequency_threshold: int, entropy_threshold: float
) -> PolicyTables:
    """Let the fast path take token ids by the classic predicate: frequent, and of low mean router entropy.

    Parameters
    ----------
    tables : PolicyTables
    n, entropy : torch.Tensor
        [L, V]: occurrences and mean router entropy of the fitting split; NaN where there were none.
    frequency_threshold : int
        More occurrences than these.
    entropy_threshold : float
        Less entropy than this, in nats.
    """
    taken = torch.zeros_like(tables.present)
    taken[:, : tables.vocabulary] = (n > frequency_threshold) & (entropy < entropy_threshold)
    return replace(tables, usable=taken & tables.present)


def take_listed(tables: PolicyTables, token_ids: Sequence[int]) -> PolicyTables:
    """Let the fast path take listed token ids beside what it takes already.

    Raises
    ------
    VarError
        If the vocabulary has no such token id.
    """
    for token in token_ids:
        if not 0 <= token < tables.vocabulary:
            raise VarError(f"policy.static: token id {token} is not one of 0 to {tables.vocabulary - 1}")
    usable = tables.usable.clone()
    listed = torch.tensor(list(token_ids), dtype=torch.int64)
    usable[:, listed] |= tables.present[:, listed]
    return replace(tables, usable=usable)


def _without_everything(good: torch.Tensor) -> torch.Tensor:
    """The row for everything is for want of a better one, never the fast path's own choice."""
    good = good.clone()
    good[:, -1] = False
    return good
