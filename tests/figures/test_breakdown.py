from types import SimpleNamespace

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from systems_to_draw import PARTS, RUN, profiled
from var_core.figures.breakdown import draw
from var_core.figures.sources import Sources
from var_core.systems.profiles import PLAIN, PROFILES


def sources_of(arms=tuple(PARTS), batches=(1, 2, 4, 8)):
    profiles = pa.Table.from_pylist(list(profiled(arms, batches)), PROFILES)
    connection = duckdb.connect()
    connection.register("given", profiles)
    connection.execute("CREATE TABLE profiles AS SELECT $run AS run, * FROM given", {"run": RUN})
    return Sources(connection, RUN, SimpleNamespace())


@pytest.fixture(scope="module")
def drawing():
    return draw(sources_of())


def bars(panel):
    """Heights by label, a bar each in the order of batch sizes and arms."""
    return {c.get_label(): [bar.get_height() for bar in c] for c in panel.containers if hasattr(c, "patches")}


def test_bars_stack_the_parts_to_the_watched_whole(drawing):
    prefill, decode = drawing.figure.axes
    for panel, slower in ((prefill, 3.0), (decode, 1.0)):
        found = bars(panel)
        expected = [slower * batch**0.5 * sum(PARTS[arm].values()) * 1.02 for batch in (1, 2, 4, 8) for arm in PARTS]
        np.testing.assert_allclose(np.sum([*found.values()], axis=0), expected)
        np.testing.assert_allclose(found["gate"][:3], np.array([0.2, 0.02, 0.02]) * 1.02 * slower)
        np.testing.assert_allclose(found["rest"][:3], np.full(3, 0.9) * 1.02 * slower)
        np.testing.assert_allclose(found["its audit"][:3], np.array([0, 0, 0.25]) * 1.02 * slower)
        [dots] = [line for line in panel.lines if line.get_marker() == "o"]
        np.testing.assert_allclose(dots.get_ydata(), np.array(expected) / 1.02)
        assert [label.get_text() for label in panel.get_xticklabels()][:3] == ["plain", "policy", "audited"]
        assert [label.get_text() for label in panel.get_xticklabels(minor=True)] == ["1", "2", "4", "8"]


def test_the_caption_says_what_is_saved_and_what_it_costs(drawing):
    said = drawing.caption
    assert "(it adds 2 %, torch's profiler adds 50 % to a pass, in the median)" in said
    assert "the gate takes 4.8 % of the plain model's time for 1 sequence and 4.8 % for 8" in said
    assert f"at most {1 / (1 - 0.2 / 4.2):.3f} times as fast" in said
    assert "with 1 sequence it saves 0.18 ms of the gate and spends 1.53 ms on its own decisions" in said
    assert "a pass takes 1.31 times what it takes without" in said


def test_without_a_policy_there_is_one_bar_a_batch_size():
    drawing = draw(sources_of(arms=(PLAIN,), batches=(1,)))
    [panel, _] = drawing.figure.axes
    assert set(map(len, bars(panel).values())) == {1}
    assert "policy" not in drawing.caption and "its audit" not in bars(panel)
    assert [label.get_text() for label in panel.get_xticklabels()] == ["1"]


def test_of_many_batch_sizes_the_ends_are_among_those_shown():
    drawing = draw(sources_of(batches=tuple(2**power for power in range(9))))
    shown = [label.get_text() for label in drawing.figure.axes[0].get_xticklabels(minor=True)]
    assert shown == ["1", "4", "16", "64", "256"]
