import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from moe_models import VOCABULARY, build_model
from var_core.config.models import FolderModel
from var_core.errors import VarError
from var_core.models.loading import load_base_model, load_model
from var_core.models.placement import input_device
from var_core.routing.recorder import Recorder
from var_core.routing.sites import find_sites

Save = Callable[[PreTrainedModel, Path], Path]


def tokens() -> torch.Tensor:
    return torch.randint(0, VOCABULARY, (2, 32), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def record(save_model: Save, tmp_path: Path) -> Path:
    """A Mixtral of 0.6 MB in three layers."""
    return save_model(build_model("mixtral"), tmp_path / "model")


def placed(**settings: Any) -> FolderModel:
    return FolderModel(source="folder", path="unused", **settings)


@pytest.mark.parametrize(("memory", "on_disk"), [("100KB", 3), ("480KB", 2)])
def test_a_model_that_is_partly_on_disk_computes_the_same(
    record: Path, tmp_path: Path, memory: str, on_disk: int
) -> None:
    whole = load_base_model(record, placed(), device="cpu").model
    folder = tmp_path / "offloaded"
    config = placed(device_map="auto", max_memory={"cpu": memory}, offload_folder=str(folder))
    loaded = load_base_model(record, config)
    away = [any(weight.is_meta for weight in layer.mlp.parameters()) for layer in loaded.model.layers]
    assert sum(away) == on_disk and any(folder.rglob("*.safetensors"))
    assert loaded.device == torch.device("cpu")
    outputs = []
    for model in (whole, loaded.model):
        with torch.no_grad(), Recorder(find_sites(model)) as recorder:
            hidden = model(tokens().to(loaded.device)).last_hidden_state
            outputs.append((hidden, recorder.take()))
    (expected, expected_decisions), (hidden, decisions) = outputs
    assert torch.equal(hidden, expected)
    assert torch.equal(decisions.experts, expected_decisions.experts)
    assert torch.equal(decisions.weights, expected_decisions.weights)
    assert torch.equal(decisions.logits, expected_decisions.logits)
    # What was written for this job goes with its model.
    del loaded, model, recorder
    gc.collect()
    assert folder.is_dir() and not any(folder.iterdir())


def test_input_device_of_an_offloaded_embedding_is_where_it_runs(record: Path, tmp_path: Path) -> None:
    config = placed(device_map="auto", max_memory={"cpu": "10KB"}, offload_folder=str(tmp_path / "offloaded"))
    model = load_base_model(record, config).model
    assert model.get_input_embeddings().weight.device == torch.device("meta")
    assert input_device(model) == torch.device("cpu")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_memory": {"cpu": "100KB"}}, "does not fit into max_memory .*; raise it, or set offload_folder"),
        ({"max_memory": {"99": "1GiB"}}, r"models\.mine\.max_memory: GPU 99 is not there"),
        ({"offload_folder": "FILE"}, r"models\.mine\.offload_folder: .*model\.json cannot be written"),
        (
            {"max_memory": {"cpu": "100KB"}, "offload_folder": "OFFLOAD", "quantisation": "int8"},
            "quantised experts cannot be offloaded to disk",
        ),
    ],
)
def test_what_cannot_be_placed_is_one_line(
    record: Path, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    places = {"OFFLOAD": str(tmp_path / "offloaded"), "FILE": str(record)}
    if "offload_folder" in settings:
        settings = {**settings, "offload_folder": places[settings["offload_folder"]]}
    with pytest.raises(VarError, match=message) as error:
        load_base_model(record, placed(device_map="auto", **settings))
    assert "\n" not in str(error.value)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("quantisation", ["none", "int8"])
def test_a_model_on_several_gpus_computes_the_same(record: Path, quantisation: str) -> None:
    one = load_model(record, head=False, device="cuda:0", quantisation=quantisation)
    several = load_model(
        record, head=False, device_map="auto", max_memory={"0": "350KB", "1": "1GiB"}, quantisation=quantisation
    )
    assert len({weight.device for weight in several.model.parameters()}) == 2
    outputs = []
    for loaded in (one, several):
        with torch.no_grad(), Recorder(find_sites(loaded.model)) as recorder:
            hidden = loaded.model(tokens().to(loaded.device)).last_hidden_state
            outputs.append((hidden.cpu(), recorder.take().experts.cpu()))
    torch.testing.assert_close(outputs[0][0], outputs[1][0])
    assert torch.equal(outputs[0][1], outputs[1][1])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("quantisation", ["none", "int8"])
def test_a_model_partly_on_the_cpu_computes_on_the_gpu(record: Path, quantisation: str) -> None:
    one = load_model(record, head=False, device="cuda", quantisation=quantisation)
    config = placed(device_map="auto", max_memory={"0": "100KB", "cpu": "1GiB"}, quantisation=quantisation)
    divided = load_base_model(record, config)
    assert any(weight.is_meta for weight in divided.model.parameters())
    assert divided.device.type == "cuda"
    with torch.no_grad():
        hidden = [loaded.model(tokens().to("cuda")).last_hidden_state for loaded in (one, divided)]
    torch.testing.assert_close(*hidden)
