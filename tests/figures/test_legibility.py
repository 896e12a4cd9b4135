"""Every figure at the size that people see: no text on text, nothing cut off, nothing small, no legend over data."""

import itertools

import pytest
from matplotlib.figure import Figure

from var_core.figures.registry import FIGURES, OF_POLICY, OF_PROFILE, OF_SYSTEMS, OF_TUNING, figures_of
from var_core.figures.style import COLUMN, PAGE, SMALL

RUNS = ("run", "blind", "wide")
POLICIES = ("evaluated", "smallest", "deep", "few_arms")
STUDIES = ("tuned", "few_trials", "many_trials", "one_objective")
WORTHS = ("worth", "replayed_only", "many_sizes", "one_device")
CASES = [
    (which, name)
    for which in RUNS
    for name in figures_of(trained=which == "run", policy=False, tuned=False, systems=False)
]
CASES += [(which, name) for which in POLICIES for name in OF_POLICY]
CASES += [(which, name) for which in STUDIES for name in OF_TUNING]
CASES += [
    (which, name) for which in WORTHS for name in OF_SYSTEMS if which != "replayed_only" or name not in OF_PROFILE
]
each_figure = pytest.mark.parametrize("drawn", CASES, indirect=True, ids="-".join)


@pytest.fixture
def drawn(request):
    """Figure and drawn text."""
    which, name = request.param
    run = request.getfixturevalue(which)
    return run.drawing(name).figure, run.texts(name)


def overlap(first, second, slack=1.0) -> bool:
    """Whether two boxes share more than a hair's breadth, in pixels."""
    width = min(first.x1, second.x1) - max(first.x0, second.x0)
    height = min(first.y1, second.y1) - max(first.y0, second.y0)
    return width > slack and height > slack


@each_figure
def test_no_text_lies_on_another(drawn):
    figure, lines = drawn
    pairs = itertools.combinations(lines, 2)
    assert len(lines) > 5 or not any(panel.axison for panel in figure.axes)
    assert not [(one.text, other.text) for one, other in pairs if overlap(one.box, other.box)]


@each_figure
def test_nothing_is_cut_off(drawn):
    figure, lines = drawn
    outside = [
        line.text
        for line in lines
        if line.box.x0 < 0 or line.box.y0 < 0 or line.box.x1 > figure.bbox.x1 or line.box.y1 > figure.bbox.y1
    ]
    assert not outside


@each_figure
def test_text_is_large_enough_at_a_width_that_journals_print(drawn):
    figure, lines = drawn
    assert figure.get_figwidth() in (COLUMN, PAGE) and figure.get_figheight() < 9
    assert min(line.size for line in lines) >= SMALL == 7


@each_figure
def test_legends_cover_no_panel(drawn):
    figure, _ = drawn
    legends = [legend for part in (figure, *figure.subfigs) for legend in part.legends]
    for legend, panel in itertools.product(legends, figure.axes):
        assert not overlap(legend.get_window_extent(), panel.get_window_extent())
    assert not any(panel.get_legend() for panel in figure.axes)


@each_figure
def test_every_panel_shows_something_and_says_what(drawn):
    figure, _ = drawn
    for panel in figure.axes:
        # A panel without anything to draw says why.
        assert [*panel.lines, *panel.collections, *panel.images, *panel.patches] if panel.axison else panel.texts
        assert panel.get_ylabel() if panel.get_label() == "<colorbar>" else panel.get_title(loc="left")


def test_text_on_text_and_text_cut_off_are_found(drawn_texts):
    figure = Figure(figsize=(2, 2), dpi=100)
    figure.text(0.5, 0.5, "some text")
    figure.text(0.52, 0.4, "upright", rotation=90)
    figure.text(0.9, 0.9, "cut off here")
    first, second, third = drawn_texts(figure)
    assert overlap(first.box, second.box) and not overlap(first.box, third.box)
    assert third.box.x1 > figure.bbox.x1 and first.box.x1 < figure.bbox.x1


def test_all_figures_are_looked_at():
    assert {name for _, name in CASES} == set(FIGURES)
