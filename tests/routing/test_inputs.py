import pytest
import torch

from moe_families.build import build_family, tokens
from var_core.errors import VarError
from var_core.routing.inputs import probe_tokens, text_inputs


def test_a_decoder_runs_without_a_cache():
    model, ids = build_family("mixtral"), tokens()
    positions = torch.arange(24).expand(2, -1)
    inputs = text_inputs(model, ids, positions)
    assert set(inputs) == {"input_ids", "position_ids", "use_cache"}
    assert inputs["use_cache"] is False
    assert "position_ids" not in text_inputs(model, ids)


def test_an_encoder_decoder_sees_the_same_tokens_on_both_sides():
    ids = tokens()
    inputs = text_inputs(build_family("switch_transformers"), ids)
    assert inputs["decoder_input_ids"] is ids


def test_a_model_without_a_cache_is_not_given_one():
    assert set(text_inputs(build_family("openai_privacy_filter"), tokens())) == {"input_ids"}


def test_positions_for_a_model_that_takes_none_are_refused():
    with pytest.raises(
        VarError, match=r"sequences\.isolate_documents: model SwitchTransformersModel takes no position"
    ):
        text_inputs(build_family("switch_transformers"), tokens(), torch.arange(24).expand(2, -1))


@pytest.mark.parametrize(
    ("vocabulary", "wanted", "length", "shape"),
    [(50_000, 256, 2048, (4, 64)), (97, 256, 16, (16, 16)), (97, 16, 2048, (1, 16)), (10, 20, 7, (3, 7))],
)
def test_probe_tokens_are_spread_over_the_vocabulary(vocabulary, wanted, length, shape):
    ids = probe_tokens(vocabulary, wanted, length)
    assert ids.shape == shape
    assert ids.min() == 0
    assert vocabulary * 0.7 < ids.max() < vocabulary or wanted < vocabulary <= 97
    assert len(ids.unique()) == min(ids.numel(), vocabulary)
