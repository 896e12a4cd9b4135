import numpy as np

from var_core.figures.routing_heatmap import MOST_TYPES, measure_map
from var_core.figures.tokens import visible


def images(run):
    return [panel.images[0] for panel in run.drawing("routing_heatmap").figure.axes if panel.images]


def test_rows_are_shares_that_sum_to_k(run):
    table = measure_map(run.sources)
    assert len(table.tokens) == MOST_TYPES and len(table.layers) == 3
    for image, shares in zip(images(run), table.shares, strict=True):
        np.testing.assert_allclose(image.get_array(), shares)
        np.testing.assert_allclose(shares.sum(axis=1), 2)


def test_a_cell_is_the_share_of_its_token_and_expert(wide):
    table = measure_map(wide.sources)
    row, column, place = 5, 17, 2
    expert, layer = int(table.experts[place][column]), table.layers[place].layer
    counted = wide.sources.query(
        "SELECT coalesce(sum(chosen), 0) / any_value(capture_count) AS share FROM tokens LEFT JOIN v_expert_counts AS c"
        " ON c.token_id = tokens.token_id AND split = 'capture' AND layer = $layer AND expert = $expert"
        " WHERE tokens.run = $run AND tokens.token = $token",
        layer=layer, expert=expert, token=table.tokens[row],
    )["share"][0].as_py()  # fmt: skip
    np.testing.assert_allclose(table.shares[place][row, column], counted)


def test_the_most_frequent_types_are_shown_without_special_ones(run):
    table = measure_map(run.sources)
    frequent = run.sources.query(
        f"SELECT token FROM v_token_frequency WHERE run = $run AND split = 'capture' AND rank <= {MOST_TYPES}"
    )["token"].to_pylist()
    assert sorted(table.tokens) == sorted(frequent) and "<s>" not in table.tokens
    assert 0.4 < table.coverage < 1


def test_tokens_are_written_visibly(run):
    labels = [text.get_text() for text in run.drawing("routing_heatmap").figure.axes[0].get_yticklabels()]
    assert labels == [visible(token) for token in measure_map(run.sources).tokens]
    assert {"␣", "↵␣×8", "$x^2$", "U+4E2D", "antidises…nism"} <= set(labels)


def test_many_experts_are_ordered_and_few_are_not(run, wide):
    assert all((order == np.arange(8)).all() for order in measure_map(run.sources).experts)
    for order in measure_map(wide.sources).experts:
        assert sorted(order) == list(range(64)) and (order != np.arange(64)).any()


def test_rows_differ_only_where_the_token_matters(run, blind):
    def spread(each):
        frequent = measure_map(each.sources).shares[0]
        return frequent.std(axis=0).mean()

    assert spread(run) > 2 * spread(blind)
