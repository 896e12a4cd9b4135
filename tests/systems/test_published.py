"""Known models, built on the meta device, come out as published."""

import resource
import time

import pytest

from var_core.errors import VarError
from var_core.systems.published import PUBLISHED, published_shape

BILLIONS = {
    "mixtral-8x7b": (46.7, 12.9),
    "olmoe-1b-7b": (6.9, 1.3),
    "qwen3-30b-a3b": (30.5, 3.3),
    "deepseek-v3": (671, 37),
    "gpt-oss-120b": (116.8, 5.1),
}
"""Total and active parameters as their authors say."""
DIMENSIONS = {
    "mixtral-8x7b": (32, 8, 2),
    "olmoe-1b-7b": (16, 64, 8),
    "qwen3-30b-a3b": (48, 128, 8),
    "deepseek-v3": (58, 256, 8),
    "gpt-oss-120b": (36, 128, 4),
}
WITHOUT_EMBEDDING = {"gpt-oss-120b"}  # its authors do not count the table as active


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_as_published(name):
    shape = published_shape(name)
    active = shape.active_parameters - (shape.embedding.parameters if name in WITHOUT_EMBEDDING else 0)
    total_said, active_said = BILLIONS[name]
    assert shape.total_parameters / 1e9 == pytest.approx(total_said, abs=0.05)
    assert active / 1e9 == pytest.approx(active_said, rel=0.02)
    assert {(len(shape.experts), experts.number, experts.top_k) for experts in shape.experts} == {DIMENSIONS[name]}


def test_experts_are_as_large_as_published():
    assert published_shape("mixtral-8x7b").expert_bytes(0) == 2 * 3 * 4096 * 14_336
    assert published_shape("deepseek-v3").expert_bytes(57) == 3 * 7168 * 2048
    stored = published_shape("gpt-oss-120b").weight_bytes
    assert stored / 2**30 == pytest.approx(60.8, abs=0.2)  # size of the published checkpoint


def test_it_takes_seconds_and_no_memory():
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    published_shape("deepseek-v3")
    assert time.monotonic() - start < 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10


def test_an_unknown_model_is_refused():
    with pytest.raises(VarError, match=r"published model gpt-5: is not known; choose one of mixtral-8x7b, .*120b"):
        published_shape("gpt-5")
