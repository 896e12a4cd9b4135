import matplotlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from var_core.figures.style import (
    CATEGORIES,
    legend_below,
    letter_panels,
    moved_apart,
    new_figure,
    ratio_bar,
    sequence_colours,
    styled,
)

places = st.lists(st.floats(-100, 100), min_size=1, max_size=12)


@given(places, st.floats(0.1, 20))
def test_labels_end_up_apart_and_in_order(values, distance):
    moved = moved_apart(values, distance)
    order = np.argsort(values, kind="stable")
    assert (np.diff(moved[order]) >= distance * (1 - 1e-9) - 1e-9).all()
    assert moved.mean() == pytest.approx(np.mean(values), abs=1e-6)


@given(places)
def test_labels_that_are_apart_stay(values):
    values = np.unique(np.round(values))
    np.testing.assert_allclose(moved_apart(values, 1.0), values, atol=1e-9)


def test_two_labels_in_one_place_move_by_half_each():
    np.testing.assert_allclose(moved_apart([5.0, 5.0], 2.0), [4.0, 6.0])


def test_the_style_ends_with_its_block():
    matplotlib.rcdefaults()
    before = dict(matplotlib.rcParams)
    with styled():
        assert matplotlib.rcParams["axes.spines.top"] is False
    assert dict(matplotlib.rcParams) == before


def test_a_users_own_settings_change_nothing():
    with matplotlib.rc_context({"font.size": 30.0, "axes.grid": True}), styled():
        assert matplotlib.rcParams["font.size"] < 10 and not matplotlib.rcParams["axes.grid"]


def test_layers_go_from_dark_to_light():
    luminance = np.array([colour[:3] for colour in sequence_colours(6)]) @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(luminance) > 0).all() and luminance[-1] < 0.8


def test_categories_differ_for_people_who_see_no_red():
    """Colours projected as a protanope sees them (Viénot, Brettel and Mollon 1999) stay apart."""
    rgb = np.array([matplotlib.colors.to_rgb(colour) for colour in CATEGORIES]) ** 2.2
    protan = np.array([[0.11238, 0.88762, 0.0], [0.11238, 0.88762, 0.0], [0.00401, -0.00401, 1.0]])
    seen = np.clip(rgb @ protan.T, 0, 1) ** (1 / 2.2)
    apart = np.abs(seen[:, None] - seen).sum(axis=-1)[np.triu_indices(len(seen), 1)]
    assert apart.min() > 0.1


@pytest.mark.parametrize(("limit", "label"), [(3.0, "4"), (1.2, "2"), (0.6, "1.4"), (0.3, "1.2")])
def test_a_scale_of_logarithms_is_labelled_with_ratios(limit, label):
    figure = Figure()
    image = figure.subplots().imshow([[0.0]], vmin=-limit, vmax=limit)
    bar = figure.colorbar(image)
    ratio_bar(bar, "ratio")
    ticks = dict(zip((text.get_text() for text in bar.ax.get_yticklabels()), bar.get_ticks(), strict=True))
    assert ticks["1"] == 0 and label in ticks
    assert ticks[label] == pytest.approx(np.log2(float(label)))


def test_a_legend_has_each_entry_once():
    figure = new_figure(3, 2)
    panels = figure.subplots(1, 2)
    for panel in panels:
        panel.plot([0, 1], [0, 1], label="same")
    panels[1].plot([0, 1], [1, 0], label="other")
    legend_below(figure, panels)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["same", "other"]


def test_panels_are_lettered():
    figure = new_figure(3, 2)
    panels = figure.subplots(1, 2)
    letter_panels(panels, ["one", "two"])
    assert [panel.texts[0].get_text() for panel in panels] == ["a", "b"]
    assert panels[1].get_title(loc="left").strip() == "two"
