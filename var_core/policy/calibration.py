"""How well a policy's entries agree with the router on text that they were not fitted on, and which pairs pay."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from var_core.hypotheses.agreement import credible_agreement
from var_core.policy.recorded import RecordedDecisions, read_decisions, recall_at_k, set_agreement
from var_core.policy.tables import PolicyTables, TableRows, keep_pairs
from var_core.routing.batch import RouterLayout

Measure = Literal["set_agreement", "recall_at_k"]
Floats = NDArray[np.float64]
_UNSEEN = 0.5
"""Decisions that every pair is taken to have beside those of the calibration split, so that what its token's other
pairs say of one that did not occur counts for something."""


@dataclass(frozen=True)
class PairChoice:
    """Which pairs are kept: at most so many, and only those that change the expected agreement by so much."""

    most: int = 200_000
    least_gain: float = 0.005


def calibrate(
    tables: PolicyTables,
    layout: RouterLayout,
    traces: Sequence[Path],
    measure: Measure = "set_agreement",
    *,
    isolate_documents: bool,
    choice: PairChoice = PairChoice(),
    domains: Collection[str] | None = None,
) -> PolicyTables:
    """Drop the pairs that do not pay, and estimate the agreement of every row's own decisions on a calibration split.

    Few decisions say little of a row, so its mean is drawn towards that of all decisions of its token, and this
    towards the mean of all tokens (:func:`nested_agreement`); that of a token's own row, which is left with what no
    pair owns, towards what its experts would come to on all of its decisions. Rows of tokens that do not occur in the
    split are not estimated.

    Parameters
    ----------
    tables : PolicyTables
    layout : RouterLayout
    traces : sequence of Path
        Of the calibration split.
    measure : {"set_agreement", "recall_at_k"}, optional
    isolate_documents : bool
        Whether positions restarted with every document.
    choice : PairChoice, optional
    domains : collection of str, optional
        Only text of these domains.
    """
    sums = [
        _LayerSums.of(
            tables,
            layer,
            layout,
            read_decisions(traces, layer, shape.experts, shape.top_k, isolate_documents, domains),
            measure,
        )
        for layer, shape in enumerate(layout.layers)
    ]
    kept = _choose(np.stack([each.gain() for each in sums]), choice)
    agreement = np.stack([each.agreement(own) for each, own in zip(sums, kept, strict=True)])
    agreement[~tables.present.numpy()] = np.nan
    return keep_pairs(replace(tables, agreement=torch.from_numpy(agreement.astype(np.float32))), kept)


def _choose(gain: Floats, choice: PairChoice) -> NDArray[np.bool_]:
    """Pairs to keep by layer, bool [L, P], from each one's gain a decision and its decisions, [L, 2, P]."""
    kept = gain[:, 0] > choice.least_gain
    total = np.where(kept, gain[:, 0] * gain[:, 1], 0.0).sum(axis=0)
    over = np.argsort(-total, kind="stable")[choice.most :]
    kept[:, over] = False
    return kept


@dataclass(frozen=True)
class _LayerSums:
    """Decisions of one layer, their agreement and its squares summed, by pair and by what is asked when it is not.

    Attributes
    ----------
    pair, without : numpy.ndarray
        float64 [3, P]: of the decisions of each pair that has an entry: by that entry, and by the one behind it.
    behind : numpy.ndarray
        float64 [3, V + 1]: of all decisions, by the token's entry; V for tokens without one, by the row for everything.
    row_behind : numpy.ndarray
        int64 [P]: which of these each pair's is.
    """

    pair: Floats
    without: Floats
    behind: Floats
    row_behind: NDArray[np.int64]

    @classmethod
    def of(
        cls, tables: PolicyTables, layer: int, layout: RouterLayout, recorded: RecordedDecisions, measure: Measure
    ) -> "_LayerSums":
        V, P = tables.vocabulary, len(tables.pairs)
        present = tables.present[layer].numpy()
        last = len(present) - 1
        pair, token = rows_of(tables, recorded).candidates.numpy()
        has_token = (token >= 0) & present[token]
        score = agreement_scores(tables, layer, layout, recorded, np.where(has_token, token, last), measure)
        behind = np.where(has_token, token, V)
        own = (pair >= 0) & present[pair]
        by_pair = agreement_scores(tables, layer, layout, recorded, np.where(own, pair, last), measure)
        tokens = tables.pairs.numpy() % V
        return cls(
            _sums(pair[own] - V, by_pair[own], P),
            _sums(pair[own] - V, score[own], P),
            _sums(behind, score, V + 1),
            np.where(present[tokens], tokens, V),
        )

    def gain(self) -> Floats:
        """What each pair is expected to change a decision, and how many decisions, [2, P].

        It may give better experts than the row behind it. And whether it agrees more or less often than the token
        does altogether, decisions can be covered in a better order.
        """
        groups = self.behind.shape[1]
        with_it, without_it = (nested_agreement(part, self.row_behind, groups) for part in (self.pair, self.without))
        usual = _credible(self.behind)[self.row_behind]
        each = np.maximum(with_it - without_it, 0) + np.abs(with_it - usual)
        return np.stack([np.nan_to_num(each), self.pair[0] + _UNSEEN])

    def agreement(self, kept: NDArray[np.bool_]) -> Floats:
        """Estimate of every row, [R], when only some pairs own their decisions; NaN for pairs that do not."""
        groups, own = self.behind.shape[1], self.row_behind[kept]
        left = self.behind - np.stack([np.bincount(own, part[kept], groups) for part in self.without])
        group = np.append(np.arange(groups), own)
        # What is left to a token has its own experts, and is drawn towards what these come to in all contexts.
        tokens, pairs = (
            nested_agreement(np.concatenate([left, part[:, kept]], axis=1), group, groups)
            for part in (self.without, self.pair)
        )
        of_pair = np.full(len(kept), np.nan)
        of_pair[kept] = pairs[groups:]
        return np.concatenate([tokens[: groups - 1], of_pair, tokens[groups - 1 : groups]])


def rows_of(tables: PolicyTables, recorded: RecordedDecisions) -> TableRows:
    """Rows that may speak for recorded decisions."""
    return tables.rows(*recorded.tokens())


def agreement_scores(
    tables: PolicyTables,
    layer: int,
    layout: RouterLayout,
    recorded: RecordedDecisions,
    row: NDArray[np.int64],
    measure: Measure,
) -> Floats:
    """Agreement of a row each, int64 [N], with recorded decisions, float64 [N]."""
    shape = layout.layers[layer]
    given = tables.experts[layer].numpy()[row, : shape.top_k].astype(np.int64)
    given = np.where(given == layout.experts, shape.experts, given)
    if measure == "set_agreement":
        return set_agreement(given, recorded.experts)
    return recall_at_k(given, recorded.experts, shape.experts)


def nested_agreement(sums: Floats, group: NDArray[np.int64], groups: int) -> Floats:
    """Estimate the agreement of members of groups from few decisions each.

    Hierarchical credibility (Jewell 1975): a member's mean is drawn towards its group's, and that towards the mean of
    all groups, both by Buehlmann and Straub's rule (:func:`var_core.hypotheses.agreement.credible_agreement`): with n
    decisions, the own mean counts n / (n + K), where K is the variance within members over that between the members of
    a group.

    Parameters
    ----------
    sums : numpy.ndarray
        float64 [3, M]: decisions, and their agreement and its squares summed.
    group : numpy.ndarray
        int64 [M].
    groups : int

    Returns
    -------
    numpy.ndarray
        float64 [M]; the group's for a member without decisions, NaN for a group without.
    """
    n, agreed, squares = sums
    of_group = np.zeros((3, groups))
    np.add.at(of_group.T, group, sums.T)
    prior, seen = _credible(of_group)[group], n > 0
    own, mean = _ratio(agreed, n), _ratio(of_group[1], of_group[0])
    total, members = n.sum(), int(seen.sum())
    within = max(float((squares - n * own**2).sum()), 0.0) / max(total - members, 1.0)
    spread = total - _ratio(np.bincount(group, n**2, groups), of_group[0]).sum()
    apart = float((n * (own - mean[group]) ** 2).sum()) - (members - int((of_group[0] > 0).sum())) * within
    if spread <= 0 or apart <= 0:
        return prior
    strength = within * spread / apart
    return np.divide(agreed + strength * prior, n + strength, out=prior.copy(), where=n + strength > 0)


def _ratio(part: NDArray[np.generic], whole: Floats) -> Floats:
    return np.divide(part, whole, out=np.zeros(len(whole)), where=whole > 0)


def _credible(sums: Floats) -> Floats:
    n, agreed, squares = sums
    return np.where(n > 0, credible_agreement(agreed, squares, n.astype(np.int64)), np.nan)


def _sums(row: NDArray[np.int64], score: Floats, rows: int) -> Floats:
    return np.stack([np.bincount(row, part, rows) for part in (np.ones(len(row)), score, score**2)])
