"""Fixtures that many tests share."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import PreTrainedModel

from moe_models import MOE_CONFIGS, VOCABULARY, build_model


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With several workers: what shares costly fixtures goes to one of them, and the longest comes first."""
    for item in items:
        shared = "workflow" if item.path.parent.name == "workflow" else str(item.path)
        item.add_marker(pytest.mark.xdist_group(shared))
    items.sort(key=lambda item: item.path.parent.name != "workflow")


@pytest.fixture(params=sorted(MOE_CONFIGS))
def family(request: pytest.FixtureRequest) -> str:
    """Name of each supported family in turn."""
    return request.param


@pytest.fixture
def moe_model(family: str) -> PreTrainedModel:
    """A small causal model of each supported family."""
    return build_model(family)


@pytest.fixture
def save_model() -> Callable[[PreTrainedModel, Path], Path]:
    """A function that saves a model with a real tokenizer as a Hugging Face folder and returns its ``model.json``."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from var_core.config.models import FolderModel
    from var_core.models.fetch import fetch_model

    def save(model: PreTrainedModel, folder: Path) -> Path:
        model.save_pretrained(folder)
        vocabulary = {chr(33 + token): token for token in range(VOCABULARY - 1)} | {"<|endoftext|>": VOCABULARY - 1}
        tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="!"))
        tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
        PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, bos_token="<|endoftext|>", eos_token="<|endoftext|>"
        ).save_pretrained(folder)
        record = folder / "model.json"
        fetch_model("mine", FolderModel(source="folder", path=str(folder)), record, "code")
        return record

    return save
