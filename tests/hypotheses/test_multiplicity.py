import numpy as np
import pytest

from var_core.hypotheses.multiplicity import judged
from var_core.hypotheses.results import Result


def row(layer, p, variant="as stated", **changes):
    values = {
        "hypothesis": "H1",
        "form": "as stated",
        "variant": variant,
        "layer": layer,
        "measure": "rho",
        "statistic": -0.6,
        "low": -0.7,
        "high": -0.5,
        "p": p,
        "p_below": 0.05,
        "n": 100,
        "n_unit": "token types",
        "threshold": -0.4,
        "direction": "below",
    }
    return Result(**(values | changes))


def test_p_values_are_adjusted_over_the_layers_of_one_test():
    rows = [row(0, 0.01), row(1, 0.04), row(2, 0.03), row(None, 0.04), row(0, 0.04, "other"), row(1, None)]
    out = judged(rows)
    assert [each.p_adjusted for each in out[:3]] == pytest.approx([0.03, 0.04, 0.04])
    assert out[3].p_adjusted == out[4].p_adjusted == 0.04  # families of their own
    assert out[5].p_adjusted is None and out[5].verdict == "inconclusive"
    assert [each.p for each in out] == [each.p for each in rows]


def test_a_layer_that_only_luck_made_significant_loses_its_support():
    out = judged([row(0, 0.03), *(row(layer, 0.8) for layer in range(1, 10))])
    assert out[0].p < 0.05 <= out[0].p_adjusted
    assert out[0].verdict == "inconclusive"
    assert judged([row(0, 0.03)])[0].verdict == "supported"


def test_false_discoveries_are_held_to_their_rate():
    random = np.random.default_rng(0)
    discoveries = []
    for _ in range(200):
        true = random.random(20) < 0.5
        p = np.where(true, random.beta(0.05, 5, size=20), random.random(20))
        out = judged([row(layer, float(each)) for layer, each in enumerate(p)])
        supported = np.array([each.verdict == "supported" for each in out])
        if supported.any():
            discoveries.append((supported & ~true).sum() / supported.sum())
    assert np.mean(discoveries) < 0.05


def test_rows_without_a_claim_stay_reported():
    assert judged([row(0, 0.01, threshold=None, direction=None)])[0].verdict == "reported"
