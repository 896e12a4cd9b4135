import numpy as np
import torch

from statistics_routed import quantities_of, random_decisions
from var_core.routing.batch import RoutedBatch
from var_core.traces.batch import trace_rows
from var_core.traces.schema import TRACE


def rows_of(batch, tokens, document):
    quantities = quantities_of(batch)
    sequence = np.array([11, 12, 13])
    return quantities, trace_rows(sequence, tokens.numpy(), document.numpy(), "prose", batch, quantities, 6)


def test_a_row_a_decision_in_order_with_what_was_decided():
    tokens, document, batch = random_decisions(2)
    quantities, rows = rows_of(batch, tokens, document)
    assert rows.schema.equals(TRACE)
    expected = [
        {
            "sequence": 11 + s,
            "position": p,
            "layer": layer,
            "document": int(document[s, p]),
            "domain": "prose",
            "token_id": int(tokens[s, p]),
            "experts": batch.experts[layer, s * 10 + p].tolist(),
        }
        for s in range(3)
        for p in range(10)
        for layer in range(3)
    ]
    got = rows.to_pylist()
    assert [{key: row[key] for key in expected[0]} for row in got] == expected
    at = [(row["layer"], 10 * (row["sequence"] - 11) + row["position"]) for row in got]
    np.testing.assert_allclose([row["weights"] for row in got], [batch.weights[i].tolist() for i in at], rtol=1e-6)
    for name in ("router_entropy", "confidence", "margin"):
        values = getattr(quantities, name)
        np.testing.assert_allclose([row[name] for row in got], [float(values[i]) for i in at], rtol=1e-6)


def test_decisions_with_bad_logits_have_no_row():
    tokens, document, batch = random_decisions(2)
    logits = batch.logits.clone()
    logits[1, 4] = torch.nan
    _, rows = rows_of(RoutedBatch(logits, batch.experts, batch.weights), tokens, document)
    assert rows.num_rows == 89
    assert (11, 4, 1) not in {(r["sequence"], r["position"], r["layer"]) for r in rows.to_pylist()}
