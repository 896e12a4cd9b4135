"""Recorded routing in the configuration: it comes in pairs, and what cannot be is refused in one line."""

import copy

import pytest

from var_core.config.root import parse_config
from var_core.errors import VarError

GOOD = {
    "runs": [{"model": "engine", "corpus": "log"}],
    "models": {
        "engine": {"source": "trace", "experts": 8, "top_k": 2},
        "hub": {"source": "folder", "path": "somewhere"},
    },
    "corpora": {
        "log": {"source": "trace", "format": "vllm", "domains": {"chat": ["logs/*.npz"]}},
        "text": {"source": "python-stdlib"},
    },
}


def message_of(**changes):
    values = copy.deepcopy(GOOD)
    for place, value in changes.items():
        *folders, last = place.split("__")
        here = values
        for name in folders:
            here = here[name]
        here[last] = value
    with pytest.raises(VarError) as caught:
        parse_config(values, "some.yaml")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_pair_is_accepted():
    config = parse_config(GOOD, "some.yaml")
    assert config.corpora["log"].heldout == 0.4 and config.models["engine"].layers is None


def test_a_recording_needs_a_recorded_model_and_the_other_way_round():
    told = message_of(runs=[{"model": "hub", "corpus": "log"}])
    assert "runs.0: corpora.log has source trace, but models.hub has not; recorded routing needs both" in told
    told = message_of(runs=[{"model": "engine", "corpus": "text"}])
    assert "runs.0: models.engine has source trace, but corpora.text has not; recorded routing needs both" in told


def test_nothing_is_trained_on_recorded_routing():
    told = message_of(models__engine={"source": "demo", "corpus": "log"}, runs=[{"model": "engine", "corpus": "text"}])
    assert "models.engine.corpus: log is recorded routing, without text to train on" in told


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"models__engine__top_k": 9}, "top_k (9) must not exceed experts (8)"),
        ({"models__engine__moe_layers": [3, 1]}, "moe_layers must be in the order in which the layers run"),
        ({"models__engine__moe_layers": [1, 1]}, "names 1 twice"),
        ({"corpora__log__heldout": 1.0}, "corpora.log.heldout"),
        ({"corpora__log__format": "gguf"}, "corpora.log.format"),
        ({"corpora__log__domains": {}}, "corpora.log.domains"),
    ],
)
def test_what_cannot_be_is_refused(change, message):
    assert message in message_of(**change)


def test_layers_and_their_numbers_must_agree():
    told = message_of(models__engine={"source": "trace", "experts": 8, "top_k": 2, "layers": 3, "moe_layers": [0, 2]})
    assert "moe_layers names 2 layers, but layers is 3" in told
