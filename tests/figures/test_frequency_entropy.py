import numpy as np
import pytest
from scipy.stats import spearmanr

from var_core.figures.by_layer import FEW
from var_core.figures.frequency_entropy import MINIMUM_TYPES_OF_A_MEDIAN, measure_clouds, running_median


@pytest.fixture(scope="module")
def clouds(run):
    return measure_clouds(run.sources)


def correlation(clouds, name, minimum=1):
    known = np.isfinite(clouds.means[name]) & (clouds.n >= minimum)
    return spearmanr(clouds.n[known], clouds.means[name][known])[0]


def test_the_clouds_are_what_the_verdicts_correlate(run, clouds):
    for name, variant, measure in (
        ("router", "as stated", "mean_router_entropy"),
        ("plug-in", "plug-in, minimum count 1", "selection_entropy"),
        ("rarefied", "rarefied to 10 occurrences", "rarefied_selection_entropy"),
    ):
        row = run.sources.result("H1", variant, f"spearman(frequency, {measure})")
        # Means and sums over layers differ in the last digit, which may break a tie of two types.
        assert correlation(clouds, name) == pytest.approx(row.statistic, abs=1e-5)
        assert np.isfinite(clouds.means[name]).sum() == row.n


def test_the_null_is_a_draw_of_the_verdicts_null(run, clouds):
    row = run.sources.result("H1", "plug-in, minimum count 1", "spearman(frequency, selection_entropy)")
    assert correlation(clouds, "null") == pytest.approx(row.null_mean, abs=0.05)


def test_without_regard_to_the_token_the_plug_in_entropy_is_its_null(run, clouds, blind):
    ignorant = measure_clouds(blind.sources)
    assert correlation(ignorant, "plug-in") == pytest.approx(correlation(ignorant, "null"), abs=0.05)
    # Where the token matters, the two differ, and so the panels do.
    assert correlation(clouds, "plug-in") < correlation(clouds, "null") - 0.1


def test_the_lines_are_medians_of_the_clouds(run, clouds):
    for panel, name in zip(run.drawing("frequency_entropy").figure.axes, clouds.means, strict=False):
        line = next(line for line in panel.lines if line.get_label() == "median")
        np.testing.assert_allclose(line.get_xydata().T, running_median(clouds.n, clouds.means[name]))


def test_a_running_median_needs_enough_types():
    n = np.array([1] * MINIMUM_TYPES_OF_A_MEDIAN + [1000] * (MINIMUM_TYPES_OF_A_MEDIAN - 1))
    values = np.concatenate([np.arange(MINIMUM_TYPES_OF_A_MEDIAN), np.zeros(MINIMUM_TYPES_OF_A_MEDIAN - 1)])
    places, middle = running_median(n, values)
    assert places.tolist() == [1.0] and middle.tolist() == [4.5]


@pytest.mark.parametrize("which", ["run", "wide"])
def test_the_lower_panel_shows_every_layer(which, request):
    each = request.getfixturevalue(which)
    panel = next(panel for panel in each.drawing("frequency_entropy").figure.axes if panel.get_xlabel() == "MoE layer")
    rows = each.sources.results_by_layer("H1", "as stated", "spearman(frequency, mean_router_entropy)")
    line = next(line for line in panel.lines if line.get_label() == "router entropy")
    np.testing.assert_allclose(line.get_ydata(), [row.statistic for row in rows])
    assert (line.get_linestyle() == "-") == (len(rows) > FEW)


def test_the_caption_has_the_numbers_of_the_verdicts(run):
    row = run.sources.result("H1", "as stated", "spearman(frequency, mean_router_entropy)")
    caption = run.drawing("frequency_entropy").caption
    assert f"{row.statistic:+.2f} [{row.low:+.2f}, {row.high:+.2f}]".replace("-", "−") in caption
    assert f"H1 asks for less than −0.4: {row.verdict}" in caption
