"""H4: much of the text is eligible for the fast path."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from var_core.config.hypotheses import AgreementMeasure, HypothesesConfig
from var_core.hypotheses.agreement import MEASURES, Coverage, Halving, halve
from var_core.hypotheses.coverage import LayerAgreement, agreement_curve, measure_layer
from var_core.hypotheses.data import Floats, Layer, RunData, TokenMoments
from var_core.hypotheses.recorded import not_tested
from var_core.hypotheses.resampling import (
    bootstrap_weights,
    generator,
    jackknife_interval,
    monte_carlo_p,
    percentile_interval,
    ratio_interval,
    ratios,
)
from var_core.hypotheses.results import Curve, Result, Transfer, finite, interval_columns, null_columns
from var_core.hypotheses.transfer import Transfers, measure_transfers

ENTROPIES_NULL = "entropies shuffled over token types"
LABELS_NULL = "table entries shuffled over token types"
GUESS_NULL = "a blind guess"


@dataclass(frozen=True)
class H4Outcome:
    """Rows, curves and transfers; verdicts are still to be given."""

    results: tuple[Result, ...]
    curves: tuple[Curve, ...]
    transfers: tuple[Transfer, ...]
    decisions: int
    """held-out decisions, over all layers"""


def h4_outcome(data: RunData, config: HypothesesConfig) -> H4Outcome:
    """Measure what share of the text a table from token to experts could route.

    As stated: occurrences of types that are frequent and have a low mean router entropy. Corrected: the largest
    share of unseen text on which a token table agrees with the learned router at least as often as the target;
    which types to cover is decided on one half of the held-out documents and measured on the other, for several ways
    of halving, because one document can weigh as much as the rest of the uncertainty. Also the whole
    curve, and what is left when the table comes from another domain.
    """
    stated = list(_stated_results(data, config))
    used = ("weights",) if config.h4.agreement_measure == "top1_agreement" else ()
    reason = data.recorded.missing("token_ids", "heldout", *used)
    if reason:
        return H4Outcome((*stated, *_untested(reason, config)), (), (), 0)
    halvings = [
        halve(data.heldout_documents, data.heldout_groups, config.seed, repeat) for repeat in range(config.halvings)
    ]
    random = generator(config.seed, "H4", "documents")
    weights = _Weights(
        bootstrap_weights(halvings[0].clusters, config.bootstrap, random),
        bootstrap_weights(halvings[0].test_clusters, config.bootstrap, random),
        [bootstrap_weights(half.test_clusters, -(-config.bootstrap // config.halvings), random) for half in halvings],
    )
    results, curves = stated, []
    pooled: dict[str, LayerAgreement] = {}
    transfers: list[Transfer] = []
    pooled_transfers: Transfers | None = None
    for layer in data.layers:
        counts, heldout = data.expert_counts(layer), data.heldout(layer)
        for measured in measure_layer(counts, heldout, layer, halvings, config, _measures(data)):
            results += _agreement_results(measured, layer.layer, weights, halvings, config)
            curves.append(agreement_curve(measured, layer.layer, weights.tested, config))
            known = pooled.get(measured.measure)
            pooled[measured.measure] = measured if known is None else known + measured
        moved = measure_transfers(data, heldout, layer, halvings[0], config, _measures(data))
        transfers += moved.rows(layer.layer, config.h4.agreement_target)
        pooled_transfers = moved if pooled_transfers is None else pooled_transfers + moved
    for measured in pooled.values():
        results += _agreement_results(measured, None, weights, halvings, config)
        curves.append(agreement_curve(measured, None, weights.tested, config))
    if pooled_transfers is not None:
        transfers += pooled_transfers.rows(None, config.h4.agreement_target)
    decisions = int(next(iter(pooled.values())).n.sum())
    return H4Outcome(tuple(results), tuple(curves), tuple(transfers), decisions)


@dataclass(frozen=True)
class _Weights:
    """Bootstrap weights of clusters of groups of documents, shape (B, D)."""

    everything: Floats
    """of all held-out documents"""
    tested: Floats
    """of the test half of the first halving"""
    halves: list[Floats]
    """of the test half of each halving; all resamples together are about as many"""


def _stated_results(data: RunData, config: HypothesesConfig) -> Iterator[Result]:
    """Coverage by frequency and entropy."""
    reason = data.recorded.missing("token_ids", "logits")
    if reason:
        above = config.h4.coverage_above
        yield not_tested("H4", "as stated", "as stated", _stated_measure(config), reason, "decisions", above, "above")
        return
    totals: list[_Stated] = []
    for layer in data.layers:
        totals.append(_stated(data, layer, config))
        yield _stated_row(totals[-1], layer.layer, config)
    pooled = _Stated(
        np.sum([part.eligible for part in totals], axis=0),
        np.sum([part.everything for part in totals], axis=0),
        np.sum([part.null for part in totals], axis=0),
    )
    yield _stated_row(pooled, None, config)


@dataclass(frozen=True)
class _Stated:
    """Eligible and all decisions from all shards and without each, shape (1 + S,); eligible under the null, (B,)."""

    eligible: Floats
    everything: Floats
    null: Floats


def _stated(data: RunData, layer: Layer, config: HypothesesConfig) -> _Stated:
    whole = data.token_moments(layer.layer)
    parts = data.left_out_moments(layer.layer, whole)
    low, frequent = _low_entropy(whole, config), whole.n > config.h4.frequency_above
    random = generator(config.seed, "H4", "entropies", layer.layer)
    occurring = np.flatnonzero(whole.n > 0)
    n = np.where(frequent, whole.n, 0)[occurring]
    null = np.array([n @ random.permutation(low[occurring]) for _ in range(config.permutations)])
    eligible = (whole.n * (low & frequent)).sum()
    without = (parts.n * (_low_entropy(parts, config) & (parts.n > config.h4.frequency_above))).sum(axis=1)
    return _Stated(
        np.append(eligible, without).astype(np.float64),
        np.append(whole.n.sum(), parts.n.sum(axis=1)).astype(np.float64),
        null.astype(np.float64),
    )


def _stated_measure(config: HypothesesConfig) -> str:
    return f"coverage, n > {config.h4.frequency_above} and entropy < {config.h4.entropy_below:g}"


def _measures(data: RunData) -> tuple[AgreementMeasure, ...]:
    """Measures of agreement that can be taken: without weights nobody knows first choices."""
    return tuple(measure for measure in MEASURES if data.recorded.weights or measure != "top1_agreement")


def _untested(reason: str, config: HypothesesConfig) -> Iterator[Result]:
    """The rows that the corrected form would have, for the measure that its verdict rests on."""
    measure, target, unit = config.h4.agreement_measure, config.h4.agreement_target, "decisions"
    promise, above = f"coverage at {measure} >= {target:g}", config.h4.coverage_above
    yield not_tested("H4", "corrected", "by agreement", promise, reason, unit, above, "above")
    yield not_tested("H4", "detail", "by agreement, realised", f"{measure} of the covered", reason, unit)
    for table in ("token table", "global table"):
        yield not_tested("H4", "detail", f"{table}, all held-out text", measure, reason, unit)


def _low_entropy(moments: TokenMoments, config: HypothesesConfig) -> np.ndarray:
    return np.nan_to_num(moments.mean_router_entropy, nan=np.inf) < config.h4.entropy_below


def _stated_row(part: _Stated, layer: int | None, config: HypothesesConfig) -> Result:
    share, null = part.eligible / part.everything, part.null / part.everything[0]
    interval = jackknife_interval(float(share[0]), share[1:], config.confidence)
    return Result(
        hypothesis="H4",
        form="as stated",
        variant="as stated",
        layer=layer,
        measure=_stated_measure(config),
        statistic=finite(share[0]),
        **interval_columns(
            interval and interval.within(0, 1), config.confidence, f"jackknife over {len(share) - 1} shards"
        ),
        p=monte_carlo_p(float(share[0]), null, "above"),
        **null_columns(ENTROPIES_NULL, null),
        n=int(part.everything[0]),
        n_unit="decisions",
        threshold=config.h4.coverage_above,
        direction="above",
        note="low entropy is not needed for agreement: see the corrected form",
    )


def _agreement_results(
    measured: LayerAgreement,
    layer: int | None,
    weights: _Weights,
    halvings: Sequence[Halving],
    config: HypothesesConfig,
) -> list[Result]:
    """Coverage at the target, the agreement realised there, and the agreement of whole tables."""
    return [
        *_coverage_rows(measured, layer, weights.halves, halvings, config),
        *_table_rows(measured, layer, weights.everything, config),
    ]


@dataclass(frozen=True)
class _Promise:
    """Coverage at the target, one value a halving, what was promised and realised there, and all resamples."""

    share: Floats
    realised: Floats
    promised: Floats
    share_draws: Floats
    realised_draws: Floats
    covered: float
    decisions: float


def _keep_promise(coverages: Sequence[Coverage], weights: Sequence[Floats], target: float) -> _Promise:
    """Choose the cut on each calibration half, and measure coverage and agreement on the test half."""
    shares, realised, promised, share_draws, realised_draws, sizes = [], [], [], [], [], []
    for coverage, drawn in zip(coverages, weights, strict=True):
        cut = coverage.cut(target)
        covered, agreed, everything = coverage.covered(cut)
        shares.append(coverage.share(cut))
        share_draws.append(ratios(covered, everything, drawn))
        sizes.append((covered.sum(), everything.sum()))
        if covered.sum():  # where a halving covers nothing, nothing was promised
            realised.append(agreed.sum() / covered.sum())
            promised.append(coverage.promise(np.array([cut]))[0])
            realised_draws.append(ratios(agreed, covered, drawn))
    return _Promise(
        np.array(shares),
        np.array(realised),
        np.array(promised),
        np.concatenate(share_draws),
        np.concatenate(realised_draws) if realised_draws else np.full(1, np.nan),
        *np.mean(sizes, axis=0),
    )


def _coverage_rows(
    measured: LayerAgreement,
    layer: int | None,
    weights: Sequence[Floats],
    halvings: Sequence[Halving],
    config: HypothesesConfig,
) -> Iterator[Result]:
    target = config.h4.agreement_target
    method = f"bootstrap over groups of test documents, pooled over {len(halvings)} halvings"
    promise = _keep_promise(measured.coverages, weights, target)
    clusters = min(half.test_clusters for half in halvings)
    share = float(promise.share.mean())
    realised = float(promise.realised.mean()) if len(promise.realised) else float("nan")
    realised_interval = percentile_interval(promise.realised_draws, clusters, config.confidence)
    broken = realised_interval is not None and realised_interval.high < target
    null = np.array([each.share(each.cut(target)) for each in measured.shuffled_coverage])
    chosen = measured.measure == config.h4.agreement_measure
    notes = [
        f"mean of {len(halvings)} halvings of {halvings[0].groups} groups of held-out documents, chosen on one half "
        f"and measured on the other; from {promise.share.min():.3f} to {promise.share.max():.3f}"
    ]
    if broken:
        notes.append(f"the agreement realised is below {target:g}, so the promise did not hold")
    yield Result(
        hypothesis="H4",
        form="corrected" if chosen else "detail",
        variant="by agreement",
        layer=layer,
        measure=f"coverage at {measured.measure} >= {target:g}",
        statistic=finite(share),
        **interval_columns(
            percentile_interval(promise.share_draws, clusters, config.confidence), config.confidence, method
        ),
        p=monte_carlo_p(share, null, "above"),
        p_below=config.false_discovery_rate if chosen else None,
        **null_columns(LABELS_NULL, null),
        n=round(promise.decisions),
        n_unit="decisions",
        threshold=config.h4.coverage_above,
        direction="above",
        supportable=not broken,
        note="; ".join(notes),
    )
    yield Result(
        hypothesis="H4",
        form="detail",
        variant="by agreement, realised",
        layer=layer,
        measure=f"{measured.measure} of the covered",
        statistic=finite(realised),
        **interval_columns(realised_interval, config.confidence, method),
        n=round(promise.covered),
        n_unit="decisions",
        note=f"promised {promise.promised.mean():.3f}, target {target:g}" if promise.covered else "nothing is covered",
    )


def _table_rows(
    measured: LayerAgreement, layer: int | None, weights: Floats, config: HypothesesConfig
) -> Iterator[Result]:
    total = measured.n.sum()
    null = measured.shuffled / total
    for variant, agreed in (("token table", measured.agreed), ("global table", measured.blind)):
        share = float(agreed.sum() / total)
        own = variant == "token table"
        yield Result(
            hypothesis="H4",
            form="detail",
            variant=f"{variant}, all held-out text",
            layer=layer,
            measure=measured.measure,
            statistic=finite(share),
            **interval_columns(
                ratio_interval(agreed, measured.n, weights, config.confidence),
                config.confidence,
                "bootstrap over groups of documents",
            ),
            p=monte_carlo_p(share, null, "above") if own else None,
            **(null_columns(LABELS_NULL, null) if own else {"null": GUESS_NULL, "null_mean": measured.chance / total}),
            n=int(total),
            n_unit="decisions",
            note=f"a blind guess: {measured.chance / total:.3g}" if own else "the same experts for every token",
        )
