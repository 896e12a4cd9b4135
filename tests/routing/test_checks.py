import pytest
import torch

from moe_models import VOCABULARY, build_model
from var_core.config.models import Expectation
from var_core.errors import VarError
from var_core.routing.batch import RoutedBatch
from var_core.routing.checks import check_documents_are_isolated, check_expectation, check_softmax_scoring
from var_core.routing.recorder import Recorder
from var_core.routing.sites import find_sites


@pytest.fixture
def recorded(moe_model):
    sites = find_sites(moe_model)
    tokens = torch.arange(40).remainder(VOCABULARY).view(2, 20)
    with torch.inference_mode(), Recorder(sites) as recorder:
        moe_model(input_ids=tokens, use_cache=False)
        return sites, recorder.take()


def test_softmax_routers_pass(recorded):
    check_softmax_scoring(*recorded)


def test_sigmoid_scoring_is_refused(recorded):
    sites, batch = recorded
    weights = torch.sigmoid(batch.logits).gather(-1, batch.experts)
    other = RoutedBatch(batch.logits, batch.experts, weights / weights.sum(-1, keepdim=True))
    with pytest.raises(VarError, match=r"router model\.layers\.0\.mlp\.gate does not weight experts by softmax"):
        check_softmax_scoring(sites, other)


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
    sites = find_sites(build_model("mixtral"))
    check_expectation(sites, 2, Expectation(experts=8, top_k=2, layers=3), "mine")
    with pytest.raises(VarError, match=rf"models\.mine\.expect\.{key}: the configuration says {wrong}, the model has"):
        check_expectation(sites, 2, Expectation(**{key: wrong}), "mine")
