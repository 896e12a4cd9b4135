import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import safetensors.torch
import torch
from transformers import PreTrainedModel

from moe_models import VOCABULARY, build_model
from var_core.config.models import DemoModel, FolderModel
from var_core.errors import VarError
from var_core.models.folder import ModelRecord, folder_digest, write_record
from var_core.models.loading import load_base_model, load_causal_model, load_model
from var_core.routing.recorder import Recorder
from var_core.routing.sites import find_sites

Save = Callable[[PreTrainedModel, Path], Path]


@pytest.fixture
def tiny(save_model: Save, tmp_path: Path) -> Path:
    """Folder of a small Mixtral, with its record."""
    return save_model(build_model("mixtral"), tmp_path / "model").parent


def record_of(folder: Path) -> Path:
    """Record a folder anew, as it is now."""
    path = folder.parent / "model.json"
    write_record(path, ModelRecord("mine", "folder", folder, None, folder_digest(folder)), "code")
    return path


def test_base_and_causal_model_are_the_saved_one(
    moe_model: PreTrainedModel, save_model: Save, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    record = save_model(moe_model, tmp_path / "model")
    config = FolderModel(source="folder", path="unused")
    capfd.readouterr()
    base = load_base_model(record, config, device="cpu")
    causal = load_causal_model(record, config, device="cpu")
    assert capfd.readouterr() == ("", "")  # neither warnings of missing weights nor bars
    tokens = torch.randint(0, VOCABULARY, (2, 20), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = moe_model.model(tokens).last_hidden_state
        assert torch.equal(base.model(tokens).last_hidden_state, expected)
        assert torch.equal(causal.model(tokens).logits, moe_model.lm_head(expected))
    assert not hasattr(base.model, "lm_head")
    for loaded in (base, causal):
        assert not loaded.model.training
        assert not any(weight.requires_grad for weight in loaded.model.parameters())
        assert (loaded.name, loaded.revision, loaded.max_positions, loaded.vocabulary) == (
            "mine",
            None,
            128,
            VOCABULARY,
        )
        assert (loaded.device, loaded.dtype) == (torch.device("cpu"), "float32")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_every_precision_runs_on_the_cpu(
    moe_model: PreTrainedModel, save_model: Save, tmp_path: Path, dtype: Literal["float32", "bfloat16", "float16"]
) -> None:
    config = FolderModel(source="folder", path="unused", dtype=dtype)
    loaded = load_base_model(save_model(moe_model, tmp_path / "model"), config, device="cpu")
    assert loaded.dtype == dtype
    assert {str(weight.dtype) for weight in loaded.model.parameters()} == {f"torch.{dtype}"}
    with Recorder(find_sites(loaded.model)) as recorder:
        assert loaded.model(torch.arange(12)[None]).last_hidden_state.isfinite().all()
        decisions = recorder.take()
    assert decisions.logits.isfinite().all() and decisions.weights.isfinite().all()


def test_auto_precision_is_as_stored(save_model: Save, tmp_path: Path) -> None:
    record = save_model(build_model("mixtral").to(torch.bfloat16), tmp_path / "model")
    assert load_model(record, head=False, device="cpu").dtype == "bfloat16"
    assert load_model(record, head=False, dtype="float32", device="cpu").dtype == "float32"


def test_demo_models_are_loaded_by_the_same_code(tiny: Path) -> None:
    config = DemoModel(source="demo", corpus="any", dtype="bfloat16")
    assert load_base_model(record_of(tiny), config, device="cpu").dtype == "bfloat16"


def test_device_map_places_the_model(tiny: Path) -> None:
    loaded = load_model(record_of(tiny), head=False, device_map="cpu")
    assert loaded.device == torch.device("cpu")
    with pytest.raises(VarError, match="cannot be loaded"):
        load_model(record_of(tiny), head=False, device_map="nonsense")


@pytest.mark.parametrize("device", ["nonsense", "cuda:99"])
def test_unknown_device_is_named(tiny: Path, device: str) -> None:
    with pytest.raises(VarError, match=f"device: .*{device}"):
        load_model(record_of(tiny), head=False, device=device)


def test_changed_folder_is_refused(tiny: Path) -> None:
    record = record_of(tiny)
    weights = safetensors.torch.load_file(tiny / "model.safetensors")
    weights["lm_head.weight"][0, 0] += 1
    safetensors.torch.save_file(weights, tiny / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(VarError, match=r"has changed since .*; run `snakemake --forcerun fetch_model`"):
        load_model(record, head=False, device="cpu")


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("config.json", r"no config\.json"),
        ("tokenizer.json", "no tokenizer"),
        ("model.safetensors", "no weights"),
        (None, "no such folder"),
    ],
)
def test_missing_parts_are_named(tiny: Path, file: str | None, message: str) -> None:
    record = record_of(tiny)
    if file is None:
        shutil.rmtree(tiny)
    else:
        (tiny / file).unlink()
    with pytest.raises(VarError, match=message):
        load_model(record, head=False, device="cpu")


@pytest.mark.parametrize("file", ["pytorch_model.bin", "consolidated.00.pth", "model.pt"])
def test_pickled_weights_are_refused(tiny: Path, file: str) -> None:
    record = record_of(tiny)
    weights = safetensors.torch.load_file(tiny / "model.safetensors")
    (tiny / "model.safetensors").unlink()
    torch.save(weights, tiny / file)
    with pytest.raises(
        VarError, match=rf"only pickled weights \({file}\).* convert them to safetensors .*save_pretrained"
    ):
        load_model(record, head=False, device="cpu")


def test_pickles_beside_safetensors_are_not_read(tiny: Path) -> None:
    (tiny / "pytorch_model.bin").write_bytes(b"not even a pickle")
    assert load_model(record_of(tiny), head=False, device="cpu").quantisation == "none"


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    "changes",
    [{"model_type": "no_such_model"}, {"hidden_size": "wide"}, {"model_type": "vit"}],
)
def test_unusable_configuration_is_one_line(tiny: Path, changes: dict[str, Any]) -> None:
    change_config(tiny, **changes)
    with pytest.raises(VarError, match=r"models\.mine: .*cannot be loaded") as error:
        load_model(record_of(tiny), head=True, device="cpu")
    assert "\n" not in str(error.value)


def test_weights_that_do_not_fit_are_refused(tiny: Path) -> None:
    change_config(tiny, num_hidden_layers=4)
    with pytest.raises(VarError, match=r"missing keys: \d+, first .*layers\.3"):
        load_model(record_of(tiny), head=False, device="cpu")
    change_config(tiny, num_hidden_layers=3, vocab_size=400)
    with pytest.raises(VarError, match=r"do not fit .*mismatched keys: \d+, first .*embed_tokens"):
        load_model(record_of(tiny), head=False, device="cpu")


def test_code_of_a_model_runs_only_when_trusted(
    tiny: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    marker = tmp_path / "code_has_run"
    (tiny / "own.py").write_text(
        "from pathlib import Path\n"
        "from transformers import MixtralConfig, MixtralForCausalLM, MixtralModel\n"
        f"Path({str(marker)!r}).touch()\n"
        "class OwnConfig(MixtralConfig):\n    model_type = 'own_moe'\n"
        "class OwnModel(MixtralModel):\n    config_class = OwnConfig\n"
    )
    # In the names of its own code: how a checkpoint's names map to those is known for known architectures only.
    build_model("mixtral").model.save_pretrained(tiny, save_original_format=False)
    change_config(tiny, model_type="own_moe", auto_map={"AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnModel"})
    record = record_of(tiny)
    with pytest.raises(VarError, match="trust_remote_code"):
        load_model(record, head=False, device="cpu")
    assert not marker.exists()
    with caplog.at_level(logging.WARNING, "var_core"):
        loaded = load_model(record, head=False, device="cpu", trust_remote_code=True)
    assert marker.exists() and type(loaded.model).__name__ == "OwnModel"
    assert "trust_remote_code" in caplog.text
