import numpy as np
import pytest

from var_core.figures.expert_load import ALL, Loads, measure_loads


def panels(run):
    return run.drawing("expert_load").figure.axes


def test_loads_are_those_of_the_tables(run):
    loads = measure_loads(run.sources)
    assert [each.name for each in loads] == [ALL, "code", "prose"]
    table = run.sources.query("SELECT layer, expert, chosen FROM expert_load WHERE run = $run AND split = 'capture'")
    for row in table.to_pylist():
        assert loads[0].chosen[row["layer"]][row["expert"]] == row["chosen"]
    for layer in range(3):
        np.testing.assert_array_equal(loads[1].chosen[layer] + loads[2].chosen[layer], loads[0].chosen[layer])


def test_maps_show_the_logarithm_of_the_relative_load(run):
    for panel, each in zip(panels(run), measure_loads(run.sources), strict=False):
        load = np.array(each.chosen)
        np.testing.assert_allclose(panel.images[0].get_array(), np.log2(load / load.mean(axis=1, keepdims=True)))
        low, high = panel.images[0].get_clim()
        assert low == -high


def test_summaries_are_those_of_the_warehouse(run):
    views = run.sources.query("SELECT * FROM v_load WHERE run = $run AND split = 'capture' ORDER BY layer")
    busiest, uneven = (panel for panel in panels(run) if panel.get_xlabel() == "MoE layer")
    for panel, column in ((busiest, "load_max_over_mean"), (uneven, "load_cv")):
        line = next(line for line in panel.lines if line.get_label() == ALL)
        np.testing.assert_allclose(line.get_ydata(), views[column].to_numpy())


def test_many_experts_are_ordered_by_their_load_in_all_text(wide):
    first = panels(wide)[0].images[0].get_array()
    assert (np.diff(first, axis=1) <= 0).all()
    assert (np.diff(panels(wide)[1].images[0].get_array(), axis=1) > 0).any()


def test_one_domain_is_shown_once(blind):
    assert [each.name for each in measure_loads(blind.sources)] == [ALL]
    assert sum(bool(panel.images) for panel in panels(blind)) == 1
    assert "domain" not in blind.drawing("expert_load").caption


def test_an_expert_without_load_has_a_colour(run):
    loads = Loads("text", [np.array([4, 0, 2, 2]), np.array([1, 1])])
    table = loads.relative([np.arange(4), np.arange(2)])
    np.testing.assert_array_equal(table, [[2, 0, 1, 1], [1, 1, np.nan, np.nan]])
    assert loads.max_over_mean.tolist() == [2, 1] and loads.variation[1] == pytest.approx(0)
