"""Fixtures that many tests share."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from transformers import PreTrainedModel

from moe_models import MOE_CONFIGS, VOCABULARY, build_model

# How long an example takes says how busy the machine is.
settings.register_profile("any machine", settings(deadline=None))
settings.load_profile("any machine")


def _shared(path: str) -> str:
    """What tests share costly fixtures with: their file; those of the workflow, all of their folder."""
    return "tests/workflow" if path.startswith("tests/workflow/") else path


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With several workers, tests that share costly fixtures go to one of them."""
    from xdist.scheduler import LoadScopeScheduling

    class BySharedFixtures(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _shared(nodeid.split("::")[0])

    return BySharedFixtures(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest comes first, or a worker would be left alone with it at the end."""
    items.sort(key=lambda item: _shared(item.nodeid.split("::")[0]) != "tests/workflow")


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
