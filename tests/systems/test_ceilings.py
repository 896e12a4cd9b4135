import time

import numpy as np
import pytest
import torch

from var_core.errors import VarError
from var_core.systems.ceilings import MEMORY, PINNED, STORAGE, fit_link, measure_ceilings


@pytest.fixture(scope="module")
def ceilings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ceilings")
    found = measure_ceilings(torch.device("cpu"), torch.float32, folder, seconds=0.05, megabytes=48)
    assert list(folder.iterdir()) == []
    return found


def test_a_cpu_is_measured(ceilings):
    assert (ceilings.device, ceilings.dtype, ceilings.threads) == ("cpu", "float32", torch.get_num_threads())
    assert 1e9 < ceilings.flops < 1e13 and 1e9 < ceilings.memory_bandwidth < 1e12
    assert 1e-7 < ceilings.launch < 1e-3 and ceilings.memory_bytes > 1 << 30
    assert [link.source for link in ceilings.links] == [MEMORY, STORAGE]
    assert all(link.bandwidth > 1e6 and link.latency >= 0 for link in ceilings.links)


def test_nothing_is_faster_than_a_ceiling(ceilings):
    """Of other shapes than were measured: a thin product is under its operations, and a copy under its bytes."""
    wide, thin, many = torch.ones(1024, 1024), torch.ones(1024, 8), torch.ones(1 << 23)
    for work, least in (
        (lambda: wide @ thin, 2 * wide.numel() * 8 / ceilings.flops),
        (many.clone, 8 * many.numel() / ceilings.memory_bandwidth),
    ):
        work()
        start = time.perf_counter()
        for _ in range(10):
            work()
        assert time.perf_counter() - start > 10 * least * 0.7


def test_a_lower_precision_is_another_ceiling(tmp_path, ceilings):
    double = measure_ceilings(torch.device("cpu"), torch.float64, tmp_path, seconds=0.02, megabytes=32)
    assert double.dtype == "float64" and double.flops < 0.8 * ceilings.flops


def test_a_link_is_found_among_disturbances():
    random = np.random.default_rng(0)
    sizes = np.tile([1 << 14, 1 << 17, 1 << 20, 1 << 23], 9)
    seconds = (2e-4 + sizes / 3e9) * np.where(random.random(len(sizes)) < 0.2, 20, 1)
    assert fit_link(sizes.tolist(), seconds.tolist()) == pytest.approx((3e9, 2e-4), rel=1e-6)


def test_a_link_whose_larger_transfers_take_no_longer_has_the_largest_ones_bandwidth():
    assert fit_link([1000, 10_000_000, 20_000_000], [1e-1, 1e-3, 1e-3]) == pytest.approx((2e10, 0))


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(VarError, match="nowhere: no such folder"):
        measure_ceilings(torch.device("cpu"), torch.float32, tmp_path / "nowhere")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_is_measured(tmp_path):
    found = measure_ceilings(torch.device("cuda"), torch.bfloat16, tmp_path, seconds=0.05)
    assert found.device == torch.cuda.get_device_name() and found.flops > 1e12
    [link] = found.links
    assert link.source == PINNED and 1e9 < link.bandwidth < found.memory_bandwidth
