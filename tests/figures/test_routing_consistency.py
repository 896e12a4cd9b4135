import numpy as np
import pytest

from var_core.figures.routing_consistency import consistency_rows, measure_types
from var_core.hypotheses.h3 import DEFINITIONS


def panels(run):
    return run.drawing("routing_consistency").figure.axes


def drawn(panel, label):
    return next(line for line in panel.lines if line.get_label() == label).get_ydata()


def test_points_are_the_rows_of_the_verdicts(run):
    for panel, name in zip(panels(run), DEFINITIONS, strict=False):
        rows = [consistency_rows(name, run.sources, layer.layer) for layer in run.sources.layers]
        np.testing.assert_allclose(drawn(panel, "counted, with interval"), [row.statistic for row in rows])
        np.testing.assert_allclose(drawn(panel, "null: load only"), [row.null_mean for row in rows])
    heldout = run.sources.results_by_layer("H3", "on held-out text", "mean recall_at_k")
    np.testing.assert_allclose(drawn(panels(run)[3], "on held-out text"), [row.statistic for row in heldout])


def test_each_definition_has_its_own_chance(run):
    chances = [panel.patches[0].get_data().values[0] for panel in panels(run)]
    assert chances == [1 / 8, 2 / 8, 2 / 8, 2 / 8]


@pytest.mark.parametrize("name", DEFINITIONS)
def test_the_middle_half_of_the_types_is_around_their_median(run, name):
    low, high = measure_types(run.sources).quartiles[name].T
    assert low.shape == high.shape == (3,) and (low < high).all()
    counts = run.sources.data.expert_counts(run.sources.layers[0])
    top = np.argsort(-counts.n, kind="stable")[:80]
    values = DEFINITIONS[name](counts, 2)[top]
    assert ((values >= low[0]) & (values <= high[0])).mean() == pytest.approx(0.5, abs=0.1)


def test_a_router_that_ignores_the_token_is_its_null(blind):
    for panel in panels(blind)[:3]:
        np.testing.assert_allclose(drawn(panel, "counted, with interval"), drawn(panel, "null: load only"), atol=0.03)
    heldout = panels(blind)[3]
    np.testing.assert_allclose(drawn(heldout, "on held-out text"), drawn(heldout, "global table"), atol=0.05)


def test_a_router_that_decides_by_the_token_is_far_from_its_nulls(run):
    for panel in panels(run)[:3]:
        assert (drawn(panel, "counted, with interval") > drawn(panel, "null: load only") + 0.1).all()
    heldout = panels(run)[3]
    assert (drawn(heldout, "on held-out text") > drawn(heldout, "null: labels shuffled") + 0.2).all()


def test_the_global_table_recalls_its_load(run):
    layer = run.sources.layers[0]
    counts, heldout = run.sources.data.expert_counts(layer), run.sources.data.expert_counts(layer, "heldout")
    two = np.argsort(-counts.chosen.sum(axis=0), kind="stable")[:2]
    top = np.argsort(-counts.n, kind="stable")[:80]
    shares = [heldout.chosen[v, two].sum() / heldout.chosen[v].sum() for v in top if heldout.n[v]]
    assert measure_types(run.sources).global_recall[0] == pytest.approx(np.mean(shares))
