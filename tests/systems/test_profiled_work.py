from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from policy_subject import Subject
from var_core.errors import VarError
from var_core.systems.calibration import calibrate
from var_core.systems.counts import count, expected_distinct
from var_core.systems.detect import shape_of
from var_core.systems.names import PHASES
from var_core.systems.profiled_work import profiled_work
from var_core.systems.profiles import PLAIN, PROFILES, Plan
from var_core.systems.profiling import profile


def profile_of(*rows):
    names = ("arm", "phase", "batch", "instrument", "part", "seconds")
    common = {"context": 8, "share": 0.5, "rounds": 7}
    return pa.Table.from_pylist([dict(zip(names, row, strict=True)) | common for row in rows], schema=PROFILES)


def counted(part, layer, flops, moved):
    return SimpleNamespace(part=part, layer=layer, flops=flops, bytes=moved)


PROFILE = profile_of(
    ("plain", "decode", 2, "none", "whole", 9.0),
    ("plain", "decode", 2, "stopwatch", "whole", 9.0),
    ("plain", "decode", 2, "stopwatch", "gate", 1.0),
    ("plain", "decode", 2, "stopwatch", "dispatch", 0.5),
    ("plain", "decode", 2, "stopwatch", "experts", 5.0),
    ("plain", "decode", 2, "stopwatch", "other", 2.5),
    ("plain", "decode", 2, "profiler", "gate", 99.0),
    ("policy", "decode", 2, "stopwatch", "gate", 99.0),
    ("plain", "prefill", 4, "stopwatch", "gate", 7.0),
)
COUNTS = {
    ("decode", 2): [
        counted("gate", 0, 10, 1), counted("gate", 1, 10, 1), counted("top_k", 0, 0, 2), counted("top_k", 1, 0, 2),
        counted("dispatch", 0, 0, 3), counted("experts", 0, 100, 50), counted("experts", 1, 100, 50),
        counted("attention", 0, 5, 5),
    ],
    ("prefill", 4): [counted("gate", 0, 80, 9)],
}  # fmt: skip


def test_what_is_counted_apart_and_done_together_is_taken_together():
    work, seconds = profiled_work(PROFILE, COUNTS, {("decode", 2): 5.5, ("prefill", 4): 8})
    rows = [*zip(work.part, *map(np.ndarray.tolist, (work.batch, work.flops, work.bytes, work.launches)), seconds)]
    assert rows == [("gate", 2, 20, 6, 2, 1.0), ("experts", 2, 200, 103, 5.5, 5.5), ("gate", 4, 80, 9, 1, 7.0)]
    assert work.forward.tolist() == [0, 0, 1]


def test_passes_that_were_not_counted_are_named():
    with pytest.raises(VarError, match="the prefill of batch 4 was profiled, but not counted"):
        profiled_work(PROFILE, {("decode", 2): COUNTS["decode", 2]}, {("decode", 2): 5.5})


def test_a_real_profile_meets_real_counts_part_by_part():
    subject = Subject.of("mixtral")
    plan = Plan(batches=(1, 2, 3), context=16, steps=2, rounds=5, profiler_rounds=0)
    text = np.random.default_rng(0).integers(90, size=(4, 18))
    profiles = profile(subject.model, subject.sites, text, {PLAIN: None}, plan)
    shape = shape_of(subject.model, subject.sites, "mixtral")
    passes = {(phase, batch): batch * (16 if phase == "prefill" else 1) for phase in PHASES for batch in plan.batches}
    counts = {(phase, batch): count(shape, phase, batch, 16) for phase, batch in passes}
    met = {one: 3 * expected_distinct(8, 2, tokens) for one, tokens in passes.items()}
    work, seconds = profiled_work(profiles, counts, met)
    assert set(work.part) == {"attention", "gate", "experts", "lm_head", "other"} and len(work) == 5 * 6
    experts = np.array([part == "experts" for part in work.part])
    # Three layers, two experts a token, three matrices of 32 x 48 each.
    np.testing.assert_allclose(
        work.flops[experts], [2.0 * 3 * 2 * 3 * 32 * 48 * passes[one] for one in counts_order(profiles)]
    )
    found = calibrate(work, seconds, held_out=(2,))
    assert found.heldout.n == 10 and found.heldout_passes.n == 2
    assert found.heldout_passes.worst < 3


def counts_order(profiles):
    """Passes in the order of the table."""
    return list(dict.fromkeys((row["phase"], row["batch"]) for row in profiles.to_pylist()))
