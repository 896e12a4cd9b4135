"""Control of false discoveries over layers, and the verdicts that follow from it."""

from collections import defaultdict
from collections.abc import Iterable

from scipy.stats import false_discovery_control

from var_core.hypotheses.results import Result, decide


def judged(results: Iterable[Result]) -> tuple[Result, ...]:
    """Adjust p-values over the layers of each test (Benjamini and Hochberg 1995) and give the verdicts.

    The family of a p-value is the same test (hypothesis, variant, measure) in all layers; a test pooled over layers
    is a family of its own. Rows without a threshold stay ``reported``.
    """
    rows = list(results)
    families: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        if row.p is not None:
            families[row.hypothesis, row.variant, row.measure, row.layer is None].append(index)
    for members in families.values():
        adjusted = false_discovery_control([rows[index].p for index in members])
        for index, p in zip(members, adjusted, strict=True):
            rows[index] = rows[index].model_copy(update={"p_adjusted": float(p)})
    return tuple(row.model_copy(update={"verdict": decide(row)}) for row in rows)
