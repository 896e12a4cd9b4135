"""H1: frequent tokens route with low entropy."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np

from var_core.config.hypotheses import HypothesesConfig
from var_core.hypotheses.data import ExpertCounts, Floats, Ints, Layer, RunData
from var_core.hypotheses.nulls import load_only_counts, permuted_spearman, spearman
from var_core.hypotheses.recorded import not_tested
from var_core.hypotheses.resampling import generator, jackknife_interval, monte_carlo_p
from var_core.hypotheses.results import Form, Result, finite, interval_columns, null_columns
from var_core.statistics.measures import chao_shen_entropy, selection_entropy, selection_entropy_norm
from var_core.statistics.rarefaction import rarefied_selection_entropy

MINIMUM_TYPES = 30
"""With fewer token types than this there is no interval, and so no verdict, on a correlation."""

LABELS_NULL = "entropies shuffled over token types"
LOAD_NULL = "experts drawn from the layer's load, whatever the token"


@dataclass(frozen=True)
class Values:
    """One value for each token type.

    ``n`` and ``values`` have shape (1 + S, V): row 0 from all the data, the others without one shard each.
    ``null`` has shape (B, V): the values under ``LOAD_NULL``.
    """

    n: Ints
    values: Floats
    null: Floats | None = None

    def __add__(self, other: "Values") -> "Values":
        """Sum over layers, which ranks types as their mean does; a type without a value at some layer has none."""
        null = None if self.null is None or other.null is None else self.null + other.null
        return Values(self.n, self.values + other.values, null)


@dataclass(frozen=True)
class _Test:
    """What is said about the correlation of frequency with one quantity."""

    quantity: str
    variant: str
    minimum: int
    form: Form
    null: str = LOAD_NULL
    note: str = ""

    @property
    def claims(self) -> bool:
        """Whether a verdict is given."""
        return self.form != "detail"


def h1_results(data: RunData, config: HypothesesConfig) -> Iterator[Result]:
    """Correlate the frequency of token types with the entropy of their routing.

    As stated: Spearman(frequency, ``mean_router_entropy``) over all types. Corrected: the same for types with
    enough occurrences, and the correlation with the rarefied selection entropy. Beside them stands the plug-in
    selection entropy, whose correlation is mostly bias, as its null shows.

    Yields
    ------
    Result
        Rows of each layer, then pooled (values of a type averaged over layers). Verdicts are still to be given.
    """
    tests = _tests(config)
    reason = data.recorded.missing("token_ids")
    if reason:
        yield from (_untested(test, reason, config) for test in tests)
        return
    pooled: dict[str, Values] = {}
    for layer in data.layers:
        for quantity, values in _quantities(data, layer, config):
            pooled[quantity] = pooled[quantity] + values if quantity in pooled else values
            for test in tests:
                if test.quantity == quantity:
                    yield _correlation(test, values, layer.layer, config)
    for test in tests:
        if test.quantity in pooled:
            yield _correlation(test, pooled[test.quantity], None, config)
        else:
            yield _untested(test, data.recorded.missing("logits") or "", config)


def _tests(config: HypothesesConfig) -> list[_Test]:
    counts, rarefied_to = config.h1.minimum_counts, config.h1.rarefied_to
    tests = [_Test("mean_router_entropy", "as stated", counts[0], "as stated", LABELS_NULL)]
    for count in counts[1:]:
        tests.append(_Test("mean_router_entropy", f"minimum count {count}", count, "corrected", LABELS_NULL))
    note = "the null is a little below 0, as the entropies of rare types scatter more, and mostly downwards"
    quantity, variant = "rarefied_selection_entropy", f"rarefied to {rarefied_to} occurrences"
    tests.append(_Test(quantity, variant, rarefied_to, "corrected", note=note))
    note = "the plug-in entropy is biased low for rare types; only the distance from the null is about routing"
    for count in counts:
        tests.append(_Test("selection_entropy", f"plug-in, minimum count {count}", count, "detail", note=note))
    note = "corrected for unseen experts (Chao-Shen); for types seen a few times some bias is left"
    variant = f"Chao-Shen, minimum count {rarefied_to}"
    tests.append(_Test("chao_shen_entropy", variant, rarefied_to, "detail", note=note))
    return tests


def _quantities(data: RunData, layer: Layer, config: HypothesesConfig) -> Iterator[tuple[str, Values]]:
    """All quantities of one layer by name; without router logits there is no router entropy."""
    if data.recorded.logits:
        whole = data.token_moments(layer.layer)
        parts = data.left_out_moments(layer.layer, whole)
        n = np.concatenate([whole.n[None], parts.n])
        yield (
            "mean_router_entropy",
            Values(n, np.concatenate([whole.mean_router_entropy[None], parts.mean_router_entropy])),
        )
    measures = _selection_measures(layer, config)
    counts = data.expert_counts(layer)
    random = generator(config.seed, "H1", "load", layer.layer)
    drawn: dict[str, list[Floats]] = {name: [] for name in measures}
    for null in load_only_counts(counts, config.null_draws, random):
        for name, measure in measures.items():
            drawn[name].append(measure(null))
    seen: list[Ints] = []
    measured: dict[str, list[Floats]] = {name: [] for name in measures}
    for each in chain([counts], data.left_out_counts(layer, counts)):
        seen.append(each.n)
        for name, measure in measures.items():
            measured[name].append(measure(each))
    for name in measures:
        yield name, Values(np.stack(seen), np.stack(measured[name]), np.stack(drawn[name]))


def _selection_measures(layer: Layer, config: HypothesesConfig) -> dict[str, Callable[[ExpertCounts], Floats]]:
    """Selection entropies by name, scaled to 0 ... 1 so that layers of different size can be averaged."""

    def scaled(entropy: Floats) -> Floats:
        return selection_entropy_norm(entropy, layer.experts, layer.top_k)

    return {
        "selection_entropy": lambda counts: scaled(selection_entropy(counts.chosen)),
        "rarefied_selection_entropy": lambda counts: scaled(
            rarefied_selection_entropy(counts.chosen, counts.n, config.h1.rarefied_to)
        ),
        "chao_shen_entropy": lambda counts: scaled(chao_shen_entropy(counts.chosen)),
    }


def _correlation(test: _Test, values: Values, layer: int | None, config: HypothesesConfig) -> Result:
    """Spearman's correlation of frequency with a quantity, its interval and its null."""
    n, known = values.n[0], _known(values.n[0], values.values[0], test.minimum)
    frequency, quantity = n[known].astype(np.float64), values.values[0][known]
    rho = spearman(frequency, quantity)
    shards = len(values.n) - 1
    interval = None
    if len(frequency) >= MINIMUM_TYPES:
        interval = jackknife_interval(rho, _left_out(values, test.minimum), config.confidence, "fisher_z")
    if test.null == LABELS_NULL:
        random = generator(config.seed, "H1", "labels", test.variant, layer)
        null, p_below = permuted_spearman(frequency, quantity, config.permutations, random), config.h1.p_below
    else:
        null, p_below = _load_null(values, known), config.false_discovery_rate
    notes = [test.note] if test.note else []
    if interval is None:
        notes.append(_why_no_interval(len(frequency), shards))
    return Result(
        hypothesis="H1",
        form=test.form,
        variant=test.variant,
        layer=layer,
        measure=f"spearman(frequency, {test.quantity})",
        statistic=finite(rho),
        **interval_columns(interval, config.confidence, f"jackknife over {shards} shards, Fisher's z"),
        p=monte_carlo_p(rho, null, "below") if test.claims else None,
        p_below=p_below if test.claims else None,
        **null_columns(test.null, null),
        n=len(frequency),
        n_unit="token types",
        threshold=config.h1.spearman_below if test.claims else None,
        direction="below" if test.claims else None,
        note="; ".join(notes),
    )


def _untested(test: _Test, reason: str, config: HypothesesConfig) -> Result:
    return not_tested(
        "H1",
        test.form,
        test.variant,
        f"spearman(frequency, {test.quantity})",
        reason,
        threshold=config.h1.spearman_below if test.claims else None,
        direction="below" if test.claims else None,
    )


def _known(n: Ints, values: Floats, minimum: int) -> np.ndarray:
    """Types with enough occurrences and a value."""
    return (n >= minimum) & np.isfinite(values)


def _left_out(values: Values, minimum: int) -> Floats:
    """The correlation without each shard in turn; shape (S,)."""
    correlations = []
    for n, quantity in zip(values.n[1:], values.values[1:], strict=True):
        known = _known(n, quantity, minimum)
        correlations.append(spearman(n[known].astype(np.float64), quantity[known]))
    return np.array(correlations)


def _load_null(values: Values, known: np.ndarray) -> Floats:
    """Correlations of the real frequencies with the quantity under ``LOAD_NULL``; shape (B,)."""
    null = np.empty((0, len(known))) if values.null is None else values.null
    frequency = values.n[0][known].astype(np.float64)
    return np.array([spearman(frequency, drawn[known]) for drawn in null])


def _why_no_interval(types: int, shards: int) -> str:
    if types < MINIMUM_TYPES:
        return f"only {types} token types, too few for an interval"
    if not shards:
        return "no counts of two shards or more, so there is no interval"
    return "the correlation is not defined without some shard, so there is no interval"
