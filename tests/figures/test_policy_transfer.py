import numpy as np
import pytest

from policies_to_draw import SimulatedEvaluation, open_sources
from var_core.figures.policy_transfer import draw, measure_matrices

DOMAINS = SimulatedEvaluation().domains


def panels(run):
    return run.drawing("policy_transfer").figure.axes


def test_rows_are_domains_and_all_text_and_columns_are_domains(evaluated):
    for matrix, panel in zip(measure_matrices(evaluated.sources), panels(evaluated), strict=True):
        assert matrix.made_on == (*DOMAINS, "all") and matrix.evaluated_on == DOMAINS
        assert panel.images[0].get_array().shape == (4, 3)
    assert [text.get_text() for text in panels(evaluated)[0].get_yticklabels()] == [*DOMAINS, "all"]


def test_numbers_in_the_cells_are_those_of_the_table(evaluated):
    rows = evaluated.sources.query("SELECT * FROM transfer WHERE run = $run").to_pylist()
    matrices = measure_matrices(evaluated.sources)
    assert [matrix.measure for matrix in matrices] == ["set_agreement", "coverage", "loss_difference"]
    for matrix, panel in zip(matrices, panels(evaluated), strict=True):
        written = {tuple(text.get_position()): text.get_text() for text in panel.texts}
        for row in (row for row in rows if row["measure"] == matrix.measure):
            place = matrix.evaluated_on.index(row["evaluated_on"]), matrix.made_on.index(row["made_on"])
            value, half = written[place].replace("−", "-").split("\n")
            assert float(value) == pytest.approx(row["value"], abs=0.0051)
            assert float(half.removeprefix("± ")) == pytest.approx((row["high"] - row["low"]) / 2, abs=0.0051)


def test_colours_are_the_values(evaluated):
    agreement, _, loss = measure_matrices(evaluated.sources)
    first, _, last = panels(evaluated)
    np.testing.assert_allclose(first.images[0].get_array(), agreement.value)
    shown = np.asarray(last.images[0].get_array())
    assert np.abs(shown - 0.5).max() == pytest.approx(0.5)
    np.testing.assert_array_equal(shown > 0.5, loss.value > 0)


def test_one_domain_has_none_to_transfer_to(smallest):
    [panel] = panels(smallest)
    assert not panel.axison and "one domain" in panel.texts[0].get_text()


def test_many_domains_stand_one_under_the_other_without_intervals(deep):
    boxes = [panel.get_position() for panel in panels(deep)]
    assert boxes[0].y0 > boxes[1].y1 and boxes[1].y0 > boxes[2].y1
    assert not [text for panel in panels(deep) for text in panel.texts if "±" in text.get_text()]
    assert "±" not in deep.drawing("policy_transfer").caption


@pytest.mark.parametrize("domains", [2, 6, 13])
def test_any_number_of_domains_can_be_drawn(domains, drawn_texts):
    names = tuple(f"domain {place:02d}" for place in range(domains))
    drawing = draw(open_sources(SimulatedEvaluation(layers=1, domains=names)))
    height = drawing.figure.get_figheight()
    assert height < 9 and any("domain 01" in line.text for line in drawn_texts(drawing.figure))


def test_a_cell_in_which_nothing_was_replaced_is_a_dash():
    simulation = SimulatedEvaluation()
    rows = simulation.tables()["transfer"].to_pylist()
    kept = [row for row in rows if (row["made_on"], row["measure"]) != ("code", "set_agreement")]
    schema = simulation.tables()["transfer"].schema
    drawing = draw(open_sources(simulation, transfer=type(simulation.tables()["transfer"]).from_pylist(kept, schema)))
    first, second, _ = drawing.figure.axes
    assert [text.get_text() for text in first.texts].count("–") == 3
    assert "–" not in [text.get_text() for text in second.texts]
