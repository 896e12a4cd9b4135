import numpy as np
import pytest
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, same_color
from matplotlib.contour import ContourSet

from systems_to_draw import ANY_LINK, LINKS, RECALLS, SimulatedSystems, open_systems
from var_core.figures.break_even import draw, places_of, speed_ups
from var_core.figures.resident import ceilings, resident_of
from var_core.systems.machine import MACHINE

RUNS = ("worth", "many_sizes")


def panels(run):
    return [panel for panel in run.drawing("break_even").figure.axes if panel.get_label() != "<colorbar>"]


def text_beside(panel):
    return [text.get_text() for text in panel.texts if "replay" in text.get_text()]


@pytest.mark.parametrize("which", RUNS)
def test_there_is_a_map_for_each_device_and_a_panel_for_all_in_memory(which, request):
    run = request.getfixturevalue(which)
    titles = [panel.get_title(loc="left").strip() for panel in panels(run)]
    shown = titles[:-1]
    assert titles[-1] == "all experts in memory" and shown[0] == MACHINE
    assert len(shown) == min(len(run.simulation.devices), 8) and set(shown) <= set(run.simulation.devices)
    links = [LINKS.get(name, ANY_LINK) for name in shown[1:]]
    assert links == sorted(links, reverse=True)


@pytest.mark.parametrize("which", RUNS)
def test_the_map_at_the_devices_own_link_and_recall_is_the_tables_closed_form(which, request):
    for place in places_of(request.getfixturevalue(which).sources).values():
        for row in (place.told, place.fastest):
            own = speed_ups(row, np.array([row["link_bandwidth"]]), np.array([row["recall"]]))
            assert own.item() == pytest.approx(row["speed_up_modelled"])
            free = speed_ups(row, np.array([row["link_bandwidth"]]), np.array([row["recall"]]), free=True)
            assert 0.95 * free.item() == pytest.approx(row["speed_up_free"])


def test_the_line_is_where_the_recall_breaks_even(worth):
    """What is drawn as the line is held against the closed form's own condition, at the link of each device."""
    checked = 0
    for panel, place in zip(panels(worth), places_of(worth.sources).values(), strict=False):
        row = place.told
        least, at = row["break_even_recall"], row["link_bandwidth"] / 1e9
        lines = [path.vertices for each in panel.collections if isinstance(each, ContourSet) and each.linestyles == "-"
                 for path in each.get_paths()]  # fmt: skip
        near = [y for line in lines for x, y in line if abs(np.log(x / at)) < 0.04]
        if least is None:
            assert not near
            continue
        assert np.mean(near) == pytest.approx(least, abs=0.05)
        checked += 1
    assert checked


def test_the_point_is_that_of_the_highest_recall_and_the_replay_stands_beside_it(worth):
    for panel, place in zip(panels(worth), places_of(worth.sources).values(), strict=False):
        row = place.told
        assert row["policy"] == "token_table" and row["recall"] == RECALLS["token_table"]
        [point] = [line for line in panel.lines if line.get_marker() == "o" and len(line.get_xydata())]
        assert point.get_xydata().tolist() == [[row["link_bandwidth"] / 1e9, row["recall"]]]
        colours = ScalarMappable(Normalize(-1, 1), "RdBu")
        assert same_color(point.get_markerfacecolor(), colours.to_rgba(np.log2(row["speed_up"])))
        [beside] = text_beside(panel)
        assert f"replay: {row['speed_up']:.2f}×\nfree: {row['speed_up_free']:.2f}×" in beside
        assert ("run:" in beside) == (row["device"] == MACHINE)


def test_the_real_run_is_told_on_the_machine(worth):
    [beside] = text_beside(panels(worth)[0])
    assert beside.endswith(f"run: {220 / 260:.2f}×")
    assert "the model really run so is 0.85 times as fast" in worth.drawing("break_even").caption


def test_controls_are_not_what_could_be_used(worth):
    for place in places_of(worth.sources).values():
        assert {place.told["policy"], place.fastest["policy"]}.isdisjoint({"oracle", "random"})
        assert place.fastest["speed_up"] >= place.told["speed_up"]
    said = worth.drawing("break_even").caption
    told = places_of(worth.sources)["h100-sxm"]
    assert f"On h100-sxm: {told.told['speed_up']:.2f} [" in said
    assert f"; fastest is {told.fastest['policy'].replace('_', ' ')}, {told.fastest['speed_up']:.2f} [" in said


def test_all_in_memory_the_ceilings_and_what_was_measured_are_drawn(worth):
    panel, rows = panels(worth)[-1], resident_of(worth.sources)
    measured = [row for row in rows if row["speed_up"] is not None]
    [container] = panel.containers
    np.testing.assert_allclose(container.lines[0].get_xydata(), [(row["batch"], row["speed_up"]) for row in measured])
    known = ceilings(rows, own=False)
    assert known[1] == (pytest.approx(1 + 0.1 * 0.9**4), pytest.approx(1.1))
    [band] = [each for each in panel.collections if each.get_label() == "ceiling, known models"]
    assert {*np.round(np.ravel([*known.values()]), 9)} <= {*band.get_paths()[0].vertices[:, 1].round(9)}
    said = worth.drawing("break_even").caption
    assert "known models would be at most so many times as fast on any of these devices: 1.100 decoding one" in said
    assert "Measured on this machine, decoding one sequence is 0.61 [0.56, 0.71] times as fast" in said


def test_of_many_devices_some_are_shown(many_sizes):
    assert "Of 10 devices, 8 are shown." in many_sizes.drawing("break_even").caption


def test_recorded_routing_has_no_map_but_known_ceilings(replayed_only):
    first, last = panels(replayed_only)
    assert not first.axison and last.axison
    said = replayed_only.drawing("break_even").caption
    assert "(a) When experts are offloaded, this is not known. (b)" in said and "so none was measured" in said


def test_with_nothing_at_all_both_panels_say_so():
    drawing = draw(open_systems(SimulatedSystems(shaped=False, arms=(), known=())))
    assert [panel.axison for panel in drawing.figure.axes] == [False, False]


def test_predicting_that_nobody_timed_is_said(worth):
    drawing = draw(open_systems(SimulatedSystems(predictions=("previous_token",))))
    assert "Predicting is taken to take no time, for nobody measured it." in drawing.caption
