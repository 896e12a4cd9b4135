import numpy as np
import pyarrow.compute as pc
import pytest
from matplotlib.colors import same_color, to_rgb

from systems_to_draw import SimulatedSystems, open_systems
from var_core.figures.cache_hits import draw
from var_core.figures.offloading import DEMANDED, PREDICTIONS, smallest_batch, told_share
from var_core.figures.style import BLUE

LABELS = {name: look.label for name, look in (DEMANDED | PREDICTIONS).items()}
RUNS = ("worth", "replayed_only", "many_sizes")


def panels(run):
    return run.drawing("cache_hits").figure.axes


def lines(panel):
    return {line.get_label(): line for line in panel.lines if not line.get_label().startswith("_")}


@pytest.mark.parametrize("which", RUNS)
@pytest.mark.parametrize(("place", "place_of_value"), [(0, 0), (1, 0), (2, 1)])
def test_lines_are_those_of_decoding_alone_with_a_warm_shared_cache(which, place, place_of_value, request):
    run = request.getfixturevalue(which)
    simulation, found = run.simulation, lines(panels(run)[place])
    policies = simulation.rules if place == 0 else ("lru", "belady", *simulation.predictions)
    assert {LABELS[policy] for policy in policies} == set(found) & set(LABELS.values())
    for policy in policies:
        line = found[LABELS[policy]]
        np.testing.assert_allclose(line.get_xdata(), simulation.shares())
        expected = [simulation.found(policy, share)[place_of_value] for share in simulation.shares()]
        np.testing.assert_allclose(line.get_ydata(), expected)


@pytest.mark.parametrize("which", RUNS)
def test_what_belady_forbids_is_shaded(which, request):
    run = request.getfixturevalue(which)
    drawn = panels(run)
    best = [run.simulation.found("belady", share) for share in run.simulation.shares()]
    [above] = [each for each in drawn[0].collections if each.get_label() == "beyond the optimum"]
    below = drawn[2].collections[-1]
    assert {round(hits, 9) for hits, _ in best} < {*above.get_paths()[0].vertices[:, 1].round(9)}
    assert {round(loads, 9) for _, loads in best} <= {*below.get_paths()[0].vertices[:, 1].round(9)}
    assert not [each for each in drawn[1].collections if each.get_label() == "beyond the optimum"]


def test_bands_are_the_intervals(worth):
    [band] = [each for each in panels(worth)[0].collections if same_color(each.get_facecolor()[0][:3], to_rgb(BLUE))]
    hits = worth.simulation.found("lru", worth.simulation.shares()[0])[0]
    ends = [y for x, y in band.get_paths()[0].vertices if x == pytest.approx(0.25)]
    assert min(ends) == pytest.approx(hits - 0.01) and max(ends) == pytest.approx(hits + 0.01)
    assert "Bands are intervals of 95 %" in worth.drawing("cache_hits").caption


def test_the_real_run_is_marked_where_it_was_measured(worth):
    marked = [[line.get_xydata()[0].tolist() for line in panel.lines
               if line.get_marker() == "D" and len(line.get_xydata())] for panel in panels(worth)]  # fmt: skip
    own = worth.simulation.found
    assert marked[0] == [[0.5, pytest.approx(own("lru", 0.5)[0] + 0.01)]]
    arms = ("next_layer", "random", "token_table")
    assert marked[1] == [[0.5, pytest.approx(own(arm, 0.5)[0] + 0.01)] for arm in arms]
    expected = [own(arm, 0.5)[1] for arm in ("lru", *arms)]
    assert [y for _, y in marked[2]] == pytest.approx(expected, abs=1e-3)
    said = worth.drawing("cache_hits").caption
    assert "LRU 61.0 % (replayed 60.0 %)" in said and "at most 1.0 points apart" in said


def test_the_caption_tells_the_best_prediction_with_what_it_moves(worth):
    said = worth.drawing("cache_hits").caption
    hits, loads = worth.simulation.found("token_table", 0.5)
    assert (
        "With 50 % of the experts in memory LRU finds 60.0 % [59.0 %, 61.0 %] and Belady's optimum finds 80.0 %" in said
    )
    assert f"by token table with a recall of 77.0 %, finds {100 * hits:.1f} %" in said
    assert f"moves {loads:.2f} experts for one that is needed, against 0.40 by LRU and 0.20 by Belady's optimum" in said


def test_a_run_without_a_model_says_so(replayed_only):
    said = replayed_only.drawing("cache_hits").caption
    assert "No model was run with offloaded experts" in said and "Diamonds" not in said
    assert "too few groups of documents for intervals" in said
    assert not [line for line in panels(replayed_only)[0].lines if line.get_marker() == "D"]


def test_without_predictions_their_panels_say_so():
    drawing = draw(open_systems(SimulatedSystems(predictions=(), arms=())))
    assert [panel.axison for panel in drawing.figure.axes] == [True, False, False]
    assert "No prediction was replayed." in drawing.caption


def test_the_size_that_is_told_is_the_one_of_the_real_run_or_the_middle():
    simulation = SimulatedSystems()
    table = simulation.tables()["offloaded"]
    place = table.column_names.index("capacity")
    smaller = table.set_column(place, "capacity", pc.if_else(pc.is_null(table["capacity"]), None, 9).cast("int32"))
    assert told_share(open_systems(simulation), 1) == 0.5
    assert told_share(open_systems(simulation, offloaded=smaller), 1) == 0.25
    assert told_share(open_systems(SimulatedSystems(arms=())), 1) == 0.5


def test_the_fewest_sequences_together_are_drawn():
    sources = open_systems(SimulatedSystems(batches=(4, 16)))
    assert smallest_batch(sources) == 4
    assert "decoding of 4 sequences together" in draw(sources).caption


def test_where_nothing_was_decoded_there_is_nothing_to_draw():
    simulation = SimulatedSystems()
    table = simulation.tables()["cache_simulations"]
    drawing = draw(open_systems(simulation, cache_simulations=table.filter(pc.equal(table["phase"], "prefill"))))
    assert not drawing.figure.axes[0].axison and "Nothing was replayed as decoded" in drawing.caption
