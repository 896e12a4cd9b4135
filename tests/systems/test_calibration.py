from dataclasses import replace

import numpy as np
import pytest

from var_core.errors import VarError
from var_core.systems.calibration import Calibration, Error, Work, calibrate

FLOPS, BANDWIDTH = 8e10, 1.5e10
LAUNCH = {"attention": 40e-6, "gate": 8e-6, "experts": 30e-6, "lm_head": 5e-6}
LAYERS, HIDDEN, INNER, EXPERTS, K = 8, 512, 1024, 16, 4
WEIGHTS = {
    "attention": 4 * HIDDEN**2 * LAYERS, "gate": HIDDEN * EXPERTS * LAYERS, "experts": 3 * HIDDEN * INNER * LAYERS,
    "lm_head": HIDDEN * 32000,
}  # fmt: skip


def work(batches=(1, 2, 4, 8, 16, 32), lengths=(1, 64)):
    """Passes of a transformer: what is decoded is bound by bytes, and what is prefilled by operations."""
    rows = []
    for number, (batch, length) in enumerate((batch, length) for batch in batches for length in lengths):
        tokens = batch * length
        met = EXPERTS * (1 - (1 - K / EXPERTS) ** tokens)
        for part, weights in WEIGHTS.items():
            used, read = (K, met) if part == "experts" else (1, 1)
            launches = 1 if part == "lm_head" else LAYERS * read
            rows.append((part, batch, 2.0 * weights * used * tokens, 4.0 * weights * read, launches, number))
    part, *others = zip(*rows, strict=True)
    batch, flops, bytes_, launches, forward = map(np.array, others)
    return Work(part, batch, flops, bytes_, launches.astype(float), forward)


DEVICE = Calibration(FLOPS, BANDWIDTH, LAUNCH, *[Error(0, 0, 0)] * 3)


def noisy(seconds, size, seed=0):
    return seconds * np.exp(size * np.random.default_rng(seed).normal(size=len(seconds)))


def test_a_device_is_recovered_and_foretells_the_batch_sizes_left_out():
    own = work()
    found = calibrate(own, DEVICE.seconds(own), held_out=(4, 32))
    assert found.flops == pytest.approx(FLOPS, rel=0.02)
    assert found.memory_bandwidth == pytest.approx(BANDWIDTH, rel=0.02)
    assert found.launch == pytest.approx(LAUNCH, rel=0.1)
    assert (found.fitted.n, found.heldout.n, found.heldout_passes.n) == (32, 16, 4)
    assert max(found.fitted.worst, found.heldout.worst, found.heldout_passes.worst) < 0.03


def test_noise_of_five_percent_comes_out_as_an_error_of_that_size():
    own = work()
    found = calibrate(own, noisy(DEVICE.seconds(own), 0.05), held_out=(4, 32))
    assert found.flops == pytest.approx(FLOPS, rel=0.1)
    assert found.memory_bandwidth == pytest.approx(BANDWIDTH, rel=0.1)
    assert 0.01 < found.heldout.median < 0.08


def test_shuffled_times_are_not_foretold():
    own = work()
    shuffled = np.random.default_rng(1).permutation(DEVICE.seconds(own))
    assert calibrate(own, shuffled, held_out=(4, 32)).heldout.median > 0.5


def test_times_of_another_law_are_not_foretold():
    """The error is on what was left out: a batch size that takes ten times as long shows there and nowhere else."""
    own = work()
    seconds = DEVICE.seconds(own) * np.where(own.batch == 8, 10, 1)
    found = calibrate(own, seconds, held_out=(8,))
    assert found.fitted.worst < 0.03 and found.heldout.median == pytest.approx(0.9, abs=0.01)


def test_nothing_is_faster_than_the_ceilings():
    own = work()
    found = calibrate(own, DEVICE.seconds(own), (4,), most_flops=0.5 * FLOPS, most_bandwidth=0.8 * BANDWIDTH)
    assert found.flops <= 0.5 * FLOPS * (1 + 1e-6) and found.memory_bandwidth <= 0.8 * BANDWIDTH * (1 + 1e-6)
    assert found.heldout.worst > 0.3


def test_a_limit_that_nothing_met_is_the_ceiling():
    own = work(lengths=(512,))
    own = replace(own, bytes=own.bytes * 1e-6)
    seconds = replace(DEVICE, memory_bandwidth=1e30).seconds(own)
    found = calibrate(own, seconds, (4,), most_bandwidth=2e10)
    assert found.flops == pytest.approx(FLOPS, rel=0.02) and found.memory_bandwidth == 2e10
    assert calibrate(own, seconds, (4,)).memory_bandwidth == np.inf
    own = work(lengths=(1,))
    own = replace(own, flops=own.flops * 1e-6, launches=np.ones(len(own)))
    seconds = replace(DEVICE, flops=1e30).seconds(own)
    found = calibrate(own, seconds, (4,), most_flops=9e10)
    assert found.memory_bandwidth == pytest.approx(BANDWIDTH, rel=0.02) and found.flops == 9e10


def test_parts_that_compute_nothing_have_a_launch_only():
    own = work()
    extra = 12
    part = [*own.part, *["dispatch"] * extra]
    forward = np.concatenate([own.forward, np.arange(extra)])
    batch = np.concatenate([own.batch, own.batch[:: len(WEIGHTS)]])
    nothing, layers = np.zeros(extra), np.full(extra, LAYERS * 1.0)
    own = Work(
        part, batch, *(np.concatenate([each, nothing]) for each in (own.flops, own.bytes)),
        np.concatenate([own.launches, layers]), forward,
    )  # fmt: skip
    seconds = replace(DEVICE, launch={**LAUNCH, "dispatch": 3e-6}).seconds(own)
    found = calibrate(own, seconds, (4, 32))
    assert found.launch["dispatch"] == pytest.approx(3e-6, rel=0.05) and found.heldout.worst < 0.03


def test_one_launch_for_all_parts_is_what_a_device_has():
    own = work()
    same = replace(DEVICE, launch=dict.fromkeys(LAUNCH, 2e-5))
    found = calibrate(own, same.seconds(own), (4, 32), one_launch=True)
    assert set(found.launch) == set(LAUNCH) and found.heldout.worst < 0.01
    assert list(found.launch.values()) == pytest.approx([2e-5] * 4, rel=0.05)
    many = replace(DEVICE, launch={name: 50 * each for name, each in LAUNCH.items()})
    worse = calibrate(own, many.seconds(own), (4, 32), one_launch=True)
    assert len(set(worse.launch.values())) == 1 and worse.heldout.worst > 0.1
    assert calibrate(own, many.seconds(own), (4, 32)).heldout.worst < 0.01


@pytest.mark.parametrize(
    ("held_out", "change", "said"),
    [
        ((3,), 1.0, "batch size 3 is to be held out, but was not measured; 1, 2, 4, 8, 16, 32 were"),
        ((1, 2, 4, 8, 16, 32), 1.0, "too few to fit to when batch sizes 1, 2, 4, 8, 16, 32 are held out"),
        ((4,), -1.0, r"row 0 \(attention\): a measured time must be above 0"),
        ((4,), float("nan"), "must be above 0"),
    ],
)
def test_what_cannot_be_fitted_is_refused(held_out, change, said):
    own = work()
    with pytest.raises(VarError, match=said):
        calibrate(own, DEVICE.seconds(own) * change, held_out)


def test_parts_that_were_not_measured_are_not_foretold():
    with pytest.raises(VarError, match="nothing was measured of part shared_experts"):
        DEVICE.seconds(replace(work(), part=["shared_experts"] * len(work())))
