"""A figure whose data were not recorded is a panel that says so."""

import importlib

import pytest

from var_core.figures.draw import not_drawn
from var_core.figures.registry import FIGURES
from var_core.hypotheses.recorded import Recorded

PARTS = {*Recorded.__dataclass_fields__, "pairs", "curves", "policy", "tuning", "systems", "profile"}


@pytest.mark.parametrize("name", FIGURES)
def test_what_a_figure_needs_is_a_part_that_may_be_missing(name):
    assert set(getattr(importlib.import_module(f"var_core.figures.{name}"), "NEEDS", ())) <= PARTS


def test_the_panel_and_the_caption_give_the_reason():
    drawing = not_drawn("routing_heatmap", "token ids were not recorded; nothing was held out")
    [panel] = drawing.figure.axes
    assert [text.get_text() for text in panel.texts] == ["token ids were not recorded\nnothing was held out"]
    assert drawing.caption.startswith("Routing heatmap: not drawn, because token ids were not recorded")
