"""H2: token frequencies follow Zipf's law; and, apart from that, how concentrated the load of the experts is."""

from collections.abc import Callable, Iterator
from itertools import chain

import numpy as np
from scipy.stats import norm

from var_core.config.hypotheses import HypothesesConfig
from var_core.hypotheses.data import Ints, Layer, RunData
from var_core.hypotheses.recorded import not_tested
from var_core.hypotheses.resampling import Floats, Interval, generator, jackknife_interval, monte_carlo_p
from var_core.hypotheses.results import Result, finite, interval_columns, null_columns
from var_core.hypotheses.zipf import (
    PowerLaw,
    compare_with_lognormal,
    fit_power_law,
    rank_frequency_line,
    simulated_distances,
)
from var_core.statistics.measures import load_entropy_norm, load_gini, load_max_over_mean

FIT_LEVEL = 0.1
"""A power law is ruled out when its goodness-of-fit p-value is at most this (Clauset, Shalizi and Newman 2009)."""

_LOAD_MEASURES: dict[str, tuple[Callable[[Ints], float], float]] = {
    "load max/mean": (load_max_over_mean, 1.0),
    "load gini": (load_gini, 0.0),
    "load entropy / ln E": (load_entropy_norm, 1.0),
}
"""Measure -> function, value when all experts have the same load."""


def h2_results(data: RunData, config: HypothesesConfig) -> Iterator[Result]:
    """Test Zipf's law on the occurrences of token types, and report the concentration of expert load.

    As stated: a straight line through ln(rank) and ln(frequency) explains more than a share of the variance. That
    asks little, for a lognormal sample passes too. Corrected: the maximum-likelihood power law must not be ruled
    out by its goodness of fit, and must be likelier than a lognormal. None of it is about routing; the
    concentration of expert load is, and is reported for each layer.

    Yields
    ------
    Result
        Rows about tokens have no layer. Verdicts are still to be given.
    """
    reason = data.recorded.missing("token_ids")
    if reason:
        yield from _untested(reason, config)
        yield from _load_results(data, config)
        return
    moments = data.token_moments(data.layers[0].layer)
    shards = data.left_out_moments(data.layers[0].layer, moments).n
    frequencies = moments.n[moments.n > 0]
    yield from _line_results(frequencies, shards, config)
    fit = fit_power_law(frequencies)
    yield from _fit_results(frequencies, fit, config)
    yield _comparison(frequencies, 1, "against lognormal, all types", config)
    if fit is not None and fit.minimum > 1:
        yield _comparison(
            frequencies, fit.minimum, f"against lognormal, types seen at least {fit.minimum} times", config
        )
    yield from _load_results(data, config)


def _untested(reason: str, config: HypothesesConfig) -> Iterator[Result]:
    """Rows of the tests that are about token types."""
    above = config.h2.r_squared_above
    yield not_tested(
        "H2", "as stated", "as stated", "r_squared(ln rank, ln frequency)", reason, threshold=above, direction="above"
    )
    yield not_tested(
        "H2", "corrected", "goodness of fit of a power law", "ks_distance", reason, threshold=0.0, direction="below"
    )
    measure = "normalised log-likelihood ratio"
    yield not_tested(
        "H2", "corrected", "against lognormal, all types", measure, reason, threshold=0.0, direction="above"
    )


def _line_results(frequencies: Ints, left_out: Ints, config: HypothesesConfig) -> Iterator[Result]:
    """The straight line through rank and frequency."""
    line = rank_frequency_line(frequencies)
    lines = [rank_frequency_line(n[n > 0]) for n in left_out]
    method = f"jackknife over {len(lines)} shards"
    r_squared = jackknife_interval(
        line.r_squared, np.array([each.r_squared for each in lines]), config.confidence, "logit"
    )
    yield Result(
        hypothesis="H2",
        form="as stated",
        variant="as stated",
        layer=None,
        measure="r_squared(ln rank, ln frequency)",
        statistic=finite(line.r_squared),
        **interval_columns(r_squared, config.confidence, f"{method}, logit"),
        n=len(frequencies),
        n_unit="token types",
        threshold=config.h2.r_squared_above,
        direction="above",
        note="about tokens, not routing; a lognormal sample passes too",
    )
    slope = jackknife_interval(line.slope, np.array([each.slope for each in lines]), config.confidence)
    yield Result(
        hypothesis="H2",
        form="detail",
        variant="as stated",
        layer=None,
        measure="slope(ln rank, ln frequency)",
        statistic=finite(line.slope),
        **interval_columns(slope, config.confidence, method),
        n=len(frequencies),
        n_unit="token types",
    )


def _fit_results(frequencies: Ints, fit: PowerLaw | None, config: HypothesesConfig) -> Iterator[Result]:
    """The maximum-likelihood power law and its goodness of fit."""
    null = "samples of the fitted power law, fitted anew"
    if fit is None:
        yield Result(
            hypothesis="H2",
            form="corrected",
            variant="goodness of fit of a power law",
            layer=None,
            measure="ks_distance",
            statistic=None,
            n=len(frequencies),
            n_unit="token types",
            note="too few token types to fit a power law",
        )
        return
    error = float(norm.ppf((1 + config.confidence) / 2)) * fit.error
    yield Result(
        hypothesis="H2",
        form="detail",
        variant="maximum likelihood",
        layer=None,
        measure="exponent",
        statistic=fit.exponent,
        **interval_columns(
            Interval(fit.exponent - error, fit.exponent + error) if np.isfinite(error) else None,
            config.confidence,
            "Fisher information",
        ),
        n=fit.tail,
        n_unit="token types",
        note=f"types seen at least {fit.minimum} times; a rank-frequency slope of {-1 / (fit.exponent - 1):.3f}",
    )
    random = generator(config.seed, "H2", "goodness of fit")
    distances = simulated_distances(frequencies, fit, config.h2.goodness_of_fit_draws, random)
    p = monte_carlo_p(fit.distance, distances, "above")
    known = np.sort(distances[np.isfinite(distances)])[::-1]
    # The distance that is exceeded exactly when p is at most FIT_LEVEL.
    place = int(FIT_LEVEL * (1 + len(known))) - 1
    critical = float(known[place]) if 0 <= place < len(known) else None
    yield Result(
        hypothesis="H2",
        form="corrected",
        variant="goodness of fit of a power law",
        layer=None,
        measure="ks_distance",
        statistic=fit.distance,
        **interval_columns(
            Interval(fit.distance, fit.distance), config.confidence, "none needed: compared with its null"
        ),
        p=p,
        **null_columns(null, distances),
        n=fit.tail,
        n_unit="token types",
        threshold=critical,
        direction="below",
        supportable=False,
        note=f"ruled out where p <= {FIT_LEVEL:g}; a good fit cannot by itself show that the law holds",
    )


def _comparison(frequencies: Ints, minimum: int, variant: str, config: HypothesesConfig) -> Result:
    """Power law against lognormal on the types seen at least `minimum` times."""
    comparison = compare_with_lognormal(frequencies, minimum)
    half = float(norm.ppf((1 + config.confidence) / 2))
    interval = None if comparison is None else Interval(comparison.ratio - half, comparison.ratio + half)
    return Result(
        hypothesis="H2",
        form="corrected",
        variant=variant,
        layer=None,
        measure="normalised log-likelihood ratio",
        statistic=None if comparison is None else comparison.ratio,
        **interval_columns(interval, config.confidence, "asymptotic (Vuong)"),
        p=None if comparison is None else comparison.p,
        null="both laws equally far from the truth",
        null_mean=0.0,
        null_sd=1.0,
        n=int((frequencies >= minimum).sum()),
        n_unit="token types",
        threshold=0.0,
        direction="above",
        note="above 0 for the power law, below for the lognormal"
        if comparison is not None
        else "too few token types, or the two fits cannot be told apart",
    )


def _load_results(data: RunData, config: HypothesesConfig) -> Iterator[Result]:
    """Concentration of expert load by layer and averaged over layers."""
    totals = {name: np.zeros(0) for name in _LOAD_MEASURES}
    unknown = data.recorded.missing("token_ids") or "no counts of two shards or more"
    decisions = 0
    for layer in data.layers:
        loads = list(_loads(data, layer))
        here = int(loads[0].sum()) // layer.top_k
        decisions += here
        for name, (measure, even) in _LOAD_MEASURES.items():
            values = np.array([measure(each) for each in loads])
            totals[name] = values if not len(totals[name]) else totals[name] + values
            yield _load_row(name, values, layer.layer, here, even, unknown, config)
    for name, (_, even) in _LOAD_MEASURES.items():
        yield _load_row(name, totals[name] / len(data.layers), None, decisions, even, unknown, config)


def _loads(data: RunData, layer: Layer) -> Iterator[Ints]:
    """Load of all shards, then without each; the tokens do not matter for it, so it needs no token ids."""
    if not data.recorded.token_ids:
        # Shard by shard there are only counts of token ids.
        yield data.load(layer)
        return
    counts = data.expert_counts(layer)
    yield from (each.chosen.sum(axis=0) for each in chain([counts], data.left_out_counts(layer, counts)))


def _load_row(
    name: str, values: Floats, layer: int | None, n: int, even: float, unknown: str, config: HypothesesConfig
) -> Result:
    """One measure of load: `values` from all shards, then without each; `unknown` is why there may be no interval."""
    interval = jackknife_interval(float(values[0]), values[1:], config.confidence)
    return Result(
        hypothesis="H2",
        form="detail",
        variant="concentration of expert load",
        layer=layer,
        measure=name,
        statistic=finite(values[0]),
        **interval_columns(interval, config.confidence, f"jackknife over {len(values) - 1} shards"),
        null="all experts alike",
        null_mean=even,
        n=n,
        n_unit="decisions",
        note="" if interval else f"{unknown}, so there is no interval",
    )
