import pytest
from pydantic import ValidationError

from var_core.config.models import DemoModel, FolderModel, HubModel

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def demo(**settings):
    return DemoModel(source="demo", corpus="text", **settings)


def test_the_demo_model_has_working_defaults():
    model = demo()
    assert model.top_k <= model.experts
    assert model.hidden % model.heads == 0
    assert model.sequence_length <= model.max_position


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"experts": 4, "top_k": 5}, r"top_k \(5\) must not exceed experts \(4\)"),
        ({"hidden": 130, "heads": 4}, r"hidden \(130\) must be an even multiple of heads \(4\)"),
        ({"hidden": 12, "heads": 4}, "even multiple"),
        ({"sequence_length": 600, "max_position": 512}, r"sequence_length \(600\) must not exceed"),
        ({"experts": 1}, "greater than or equal to 2"),
    ],
)
def test_settings_of_the_demo_model_must_fit_together(settings, message):
    with pytest.raises(ValidationError, match=message):
        demo(**settings)


def test_a_hub_model_says_where_its_commits_are_listed():
    with pytest.raises(ValidationError, match=r"git ls-remote https://huggingface.co/owner/model HEAD"):
        HubModel(source="hub", repo="owner/model", revision="main")
    assert HubModel(source="hub", repo="owner/model", revision=COMMIT).revision == COMMIT


def test_code_that_comes_with_a_model_is_not_run_unasked():
    assert not HubModel(source="hub", repo="owner/model", revision=COMMIT).trust_remote_code
    assert not FolderModel(source="folder", path="somewhere").trust_remote_code


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_memory": {"0": "70GiB"}}, "max_memory is only used with device_map; add device_map: auto"),
        ({"offload_folder": "scratch"}, "offload_folder is only used with device_map"),
        ({"device_map": "auto", "max_memory": {"gpu": "70GiB"}}, "'gpu' is not a device; use the number of a GPU"),
        ({"device_map": "auto", "max_memory": {"0": "70 gigs"}}, "'70 gigs' of 0 is not a size; write it like 70GiB"),
        ({"device_map": "auto", "max_memory": {"0": "-1GB"}}, "'-1GB' of 0 is not a size"),
        ({"quantisation": "int3"}, "'none', 'int8' or 'int4'"),
    ],
)
def test_placement_and_quantisation_must_make_sense(settings, message):
    with pytest.raises(ValidationError, match=message):
        FolderModel(source="folder", path="somewhere", **settings)


def test_placement_and_quantisation_go_together():
    memory = {"0": "70GiB", "1": "0.5GB", "cpu": "200MiB"}
    model = FolderModel(
        source="folder", path="somewhere", device_map="auto", max_memory=memory, offload_folder="d", quantisation="int4"
    )
    assert model.max_memory == memory


def test_a_folder_needs_a_path():
    with pytest.raises(ValidationError):
        FolderModel(source="folder", path="")
