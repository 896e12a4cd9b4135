import pytest
import torch

from moe_models import VOCABULARY, build_model
from var_core.config.models import Expectation
from var_core.errors import VarError
from var_core.routing.batch import RouterLayout
from var_core.routing.checks import check_attach, check_documents_are_isolated, check_expectation
from var_core.routing.inputs import text_inputs
from var_core.routing.sites import find_sites


def sample(model):
    return text_inputs(model, torch.arange(3, 15).view(1, 12))


@pytest.mark.parametrize(
    ("dtype", "least", "most"),
    [(torch.float32, 0, 1e-5), (torch.bfloat16, 1e-5, 5e-2), (torch.float16, 1e-6, 1e-2)],
)
def test_experts_add_up_in_every_precision(moe_model, dtype, least, most):
    model = moe_model.to(dtype)
    errors = check_attach(model, find_sites(model), sample(model))
    assert len(errors) == 3
    assert all(least <= error <= most for error in errors)


def test_a_tampered_output_names_its_site_and_what_to_do():
    model = build_model("mixtral")
    sites = find_sites(model)
    sites[1].experts.register_forward_hook(lambda module, arguments, output: output * 1.001)
    expected = r"model\.layers\.1\.mlp\.experts does not compute .* \(relative error 0\.001, .*exclude_sites"
    with pytest.raises(VarError, match=expected):
        check_attach(model, sites, sample(model))


def test_experts_that_see_other_weights_are_found():
    """Weights scaled on the way in, after they were recorded: what is recorded would not be what is used."""
    model = build_model("mixtral")
    sites = find_sites(model)
    forward = sites[0].experts.forward
    sites[0].experts.forward = lambda hidden, index, weights: forward(hidden, index, weights.roll(1, 0))
    with pytest.raises(VarError, match=r"model\.layers\.0\.mlp\.experts does not compute"):
        check_attach(model, sites, sample(model))


def test_the_check_leaves_no_hooks(moe_model):
    sites = find_sites(moe_model)
    check_attach(moe_model, sites, sample(moe_model))
    assert not any(module._forward_hooks for module in moe_model.modules())


def test_isolation_holds_in_every_family(moe_model):
    check_documents_are_isolated(moe_model.model, VOCABULARY, torch.device("cpu"))


def test_a_model_that_ignores_positions_is_found():
    model = build_model("mixtral").model
    forward = model.forward
    model.forward = lambda position_ids=None, **keywords: forward(**keywords)
    with pytest.raises(VarError, match=r"sequences\.isolate_documents: this model reads across documents"):
        check_documents_are_isolated(model, VOCABULARY, torch.device("cpu"))


@pytest.mark.parametrize(("key", "wrong"), [("experts", 4), ("top_k", 1), ("layers", 32)])
def test_a_wrong_expectation_names_its_key(key, wrong):
    layout = RouterLayout.uniform(layers=3, experts=8, top_k=2)
    check_expectation(layout, Expectation(experts=8, top_k=2, layers=3), "mine")
    with pytest.raises(VarError, match=rf"models\.mine\.expect\.{key}: the configuration says {wrong}, the model has"):
        check_expectation(layout, Expectation(**{key: wrong}), "mine")
