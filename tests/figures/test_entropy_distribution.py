from dataclasses import replace

import numpy as np
import pytest

from var_core.config.figures import FiguresConfig
from var_core.errors import VarError
from var_core.figures.draw import draw_figure
from var_core.figures.entropy_distribution import BINS, measure_entropies


def raw(run, layer):
    return run.sources.query(
        "SELECT router_entropy FROM traces JOIN tokens USING (run, token_id)"
        " WHERE run = $run AND split = 'heldout' AND layer = $layer AND NOT special",
        layer=layer,
    )["router_entropy"].to_numpy()


def test_histograms_and_quantiles_are_those_of_the_trace(run):
    for each in measure_entropies(run.sources):
        values = raw(run, each.layer.layer)
        assert each.decisions == len(values)
        assert each.share_below == (values < 0.5).mean() > 0
        width = np.log(8) / BINS
        shares = [0.05, 0.25, 0.5, 0.75, 0.95]
        np.testing.assert_allclose(each.quantiles(shares), np.quantile(values, shares), atol=1.5 * width)


def test_ridges_hold_all_decisions(run):
    left = run.drawing("entropy_distribution").figure.axes[0]
    entropies = measure_entropies(run.sources)
    heights = [patch.get_data().values - row for row, patch in enumerate(left.patches[::2])]
    tallest = max(height.max() for height in heights)
    for each, height in zip(entropies, heights, strict=True):
        assert len(height) == 64
        np.testing.assert_allclose(height / height.sum(), each.histogram.reshape(64, -1).sum(axis=1) / each.decisions)
    assert tallest == pytest.approx(0.92)


def test_medians_are_drawn_at_their_layers(run):
    right = run.drawing("entropy_distribution").figure.axes[1]
    line = next(line for line in right.lines if line.get_label() == "median")
    np.testing.assert_allclose(line.get_ydata(), [each.quantiles([0.5])[0] for each in measure_entropies(run.sources)])


def test_few_ridges_stand_for_many_layers(wide):
    left = wide.drawing("entropy_distribution").figure.axes[0]
    names = [text.get_text() for text in left.get_yticklabels()]
    assert names == ["layer 0", "layer 2", "layer 5", "layer 7", "layer 10", "layer 12"]
    assert "Of 13 layers, 0, 2, 5, 7, 10, 12 are shown." in wide.drawing("entropy_distribution").caption


def test_without_a_trace_there_is_one_line(run, tmp_path):
    files = replace(run.files, traces={})
    with pytest.raises(VarError, match=r"no held-out trace of layer 0; add 'heldout' to capture\.trace"):
        draw_figure("entropy_distribution", files, run.verdicts, FiguresConfig(), tmp_path / "figure.png", "")
