"""What can be known of experts beforehand, on made decisions of which it is known what can be."""

import numpy as np
import pytest
import torch

from systems_decisions import decisions_of, random_decisions
from var_core.errors import VarError
from var_core.policy.cache import CacheLimits
from var_core.policy.fitting import Entries
from var_core.policy.tables import assemble
from var_core.systems.accesses import as_decode
from var_core.systems.predictions import (
    PREDICTORS,
    Knowledge,
    fit_next_layer,
    precision,
    predict,
    predicted_passes,
    recall,
)

ALPHABET, WIDTH, K = 12, 6, 2


def tables_of(decisions):
    """Tables that hold what each token id chose last."""
    entries = []
    for layer in range(decisions.experts.shape[1]):
        ids, last = np.unique(decisions.token_id[::-1], return_index=True)
        chosen = decisions.experts[::-1][last, layer].astype(np.int16)
        entries.append(Entries(ids, np.ones(len(ids), np.int64), chosen, np.ones(chosen.shape, np.float32)))
    everything = [
        Entries(np.zeros(1, np.int64), np.ones(1, np.int64), np.zeros((1, K), np.int16), np.ones((1, K)))
    ] * len(entries)
    return assemble(ALPHABET, WIDTH, entries, everything)


def knowledge(decisions, least_agreement=0.0):
    return Knowledge(tables_of(decisions), least_agreement, CacheLimits(1, 64, 1000), fit_next_layer(decisions))


def test_experts_of_a_token_are_known_where_they_are_the_tokens_own():
    own = random_decisions(80, alphabet=ALPHABET)
    score = {name: recall(predict(name, own, knowledge(own)), own) for name in PREDICTORS}
    assert score["oracle"] == score["token_table"] == 1
    # A context of one token is met again at the second time at the latest.
    assert score["context_cache"] > 0.8
    assert score["random"] == pytest.approx(K / WIDTH, abs=0.05)


def test_nothing_is_known_of_random_experts():
    """The control: tables, contexts and layers of other text say no more than chance."""
    other, own = random_decisions(400, seed=1), random_decisions(400, seed=2)
    other.token_id[:] %= ALPHABET
    own.token_id[:] %= ALPHABET
    known = knowledge(other)
    for name in ("token_table", "context_cache", "previous_token", "random"):
        chosen = predict(name, own, known)
        assert precision(chosen, own) == pytest.approx(K / WIDTH, abs=0.04), name
    # Nothing is predicted of the first of three layers.
    assert recall(predict("next_layer", own, known), own) == pytest.approx(K / WIDTH * 2 / 3, abs=0.03)


def test_the_token_before_is_that_of_the_same_sequence():
    own = decisions_of([[[0, 1]], [[2, 3]], [[4, 5]], [[0, 2]]], 6, sequence=[0, 0, 7, 7])
    assert predict("previous_token", own, Knowledge())[:, 0].tolist() == [[6, 6], [0, 1], [6, 6], [4, 5]]


def test_the_next_layer_follows_from_this_one():
    here = np.array([[0, 1], [2, 3], [3, 0], [1, 2]] * 5)
    own = decisions_of(np.stack([here, (here + 1) % 4], axis=1), 4)
    chosen = predict("next_layer", own, Knowledge(next_layer=fit_next_layer(own)))
    assert (chosen[:, 0] == 4).all()
    assert recall(chosen, own) == pytest.approx(0.5)
    counts = fit_next_layer(own)[0]
    assert counts[0].tolist() == [0.5, 1, 0.5, 0]


def test_contexts_end_with_their_documents():
    ids, experts = [5, 6, 5, 6], [[[0, 1]], [[2, 3]], [[4, 5]], [[0, 2]]]
    own = decisions_of(experts, 6, token_id=ids, document=[0, 0, 1, 1])
    found = predict("context_cache", own, Knowledge(cache=CacheLimits(2, 8, 100)))
    # The contexts (start, 5) and (5, 6) come again in the second document; what the first decided is given.
    assert found[:, 0].tolist() == [[6, 6], [6, 6], [0, 1], [2, 3]]
    going_on = predict("context_cache", own, Knowledge(cache=CacheLimits(2, 8, 100), isolate_documents=False))
    assert going_on[:, 0].tolist() == [[6, 6], [6, 6], [6, 6], [2, 3]]


def test_entries_that_promise_too_little_are_not_prefetched():
    own = random_decisions(20, alphabet=ALPHABET)
    known = knowledge(own, least_agreement=0.5)
    known.tables.agreement[:, :ALPHABET] = torch.linspace(0, 1, ALPHABET)
    chosen = predict("token_table", own, known)
    promised = torch.linspace(0, 1, ALPHABET).numpy()[own.token_id] >= 0.5
    assert ((chosen < WIDTH).all(axis=(1, 2)) == promised).all()


def test_predictions_of_a_pass_are_those_of_its_tokens():
    own = decisions_of([[[0, 1]], [[1, 2]], [[3, 0]]], 4, sequence=[0, 1, 2])
    passes, _ = as_decode(own, batch=3)
    found = predicted_passes(own.experts, passes, 1, 4)
    assert found.experts.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("name", "needs"),
    [
        ("token_table", "token ids, and the trace has none"),
        ("context_cache", "token ids, and the trace has none"),
        ("next_layer", "the order of layers in other text"),
    ],
)
def test_what_is_lacking_is_said_in_one_line(name, needs):
    own = decisions_of([[[0, 1]]], 4)
    with pytest.raises(VarError, match=needs) as error:
        predict(name, own, Knowledge())
    assert "\n" not in str(error.value)
    with_ids = decisions_of([[[0, 1]]], 4, token_id=[3])
    with pytest.raises(VarError, match=r"tables of a policy|context cache|order of layers"):
        predict(name, with_ids, Knowledge())
