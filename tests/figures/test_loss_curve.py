import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from var_core.errors import VarError
from var_core.figures.loss_curve import heldout_losses, running_mean
from var_core.figures.sources import Sources


def panels(run):
    return run.drawing("loss_curve").figure.axes


def test_the_curve_is_the_training_record(run):
    steps = np.arange(1, 201)
    loss = panels(run)[0].lines[0]
    np.testing.assert_allclose(loss.get_xdata(), 4096 * steps)
    np.testing.assert_allclose(loss.get_ydata(), 4 + 4 * np.exp(-steps / 40))
    np.testing.assert_allclose(panels(run)[1].lines[0].get_ydata(), 2 + 0.5 / steps)


def test_baselines_are_logarithms_of_perplexities(run):
    levels = [line.get_ydata()[0] for line in panels(run)[0].lines[2:]]
    np.testing.assert_allclose(levels, np.log([600, 110, 60]))
    names = [text.get_text() for text in panels(run)[0].texts]
    assert names[:3] == ["unigram 6.40", "bigram 4.70", "model 4.09"] or names[1:4] == [
        "unigram 6.40",
        "bigram 4.70",
        "model 4.09",
    ]


def test_all_levels_are_within_the_axes(run):
    low, high = panels(run)[0].get_ylim()
    assert low < np.log(60) and np.log(600) < high
    assert panels(run)[1].get_ylim()[0] < 2


def test_the_caption_says_whether_the_model_beats_the_bigrams(run):
    assert "0.61 nats below the bigram baseline, so it has learned more" in run.drawing("loss_curve").caption


def test_without_a_record_there_is_one_line(run):
    for training in (None, {}, {"heldout": {}}):
        sources = Sources(run.sources.connection, run.sources.run, run.sources.verdicts, training)
        with pytest.raises(VarError, match="no held-out perplexities"):
            heldout_losses(sources)


@given(arrays(np.float64, st.integers(1, 40), elements=st.floats(-10, 10)), st.integers(1, 40))
def test_a_running_mean_stays_within_its_values(values, width):
    mean = running_mean(values, min(width, len(values)))
    assert mean.shape == values.shape
    assert (mean >= values.min() - 1e-9).all() and (mean <= values.max() + 1e-9).all()


def test_a_running_mean_of_a_line_is_the_line_inside():
    np.testing.assert_allclose(running_mean(np.arange(10.0), 3)[1:-1], np.arange(1.0, 9.0))
