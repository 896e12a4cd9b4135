"""What is captured once is kept: jobs find, share and put together micro-shards."""

import time

import pytest

from capture_processes import CaptureProcesses
from captures import (
    CONFIG,
    LENGTH,
    assert_same_up_to_rounding,
    capture,
    contents,
    interrupted_at,
    unfinished,
    write_shard,
)
from var_core.capture import job
from var_core.capture.lock import ShardLock
from var_core.capture.micro_shard import MicroShardCapture
from var_core.capture.outputs import CaptureOutputs
from var_core.errors import VarError
from var_core.parquet import read_provenance, write_table
from var_core.statistics.stage import merge_shards
from var_core.statistics.tables import SCHEMAS

MICRO_SHARDS = 4


@pytest.fixture
def shard(tmp_path):
    return write_shard(tmp_path / "corpus" / "heldout-00000.parquet", sequences=40, micro_shards=MICRO_SHARDS)


@pytest.fixture
def captured(monkeypatch):
    """First sequences of the micro-shards that are captured from now on."""
    found, run = [], MicroShardCapture.run

    def noted(self, *arguments):
        found.append(self._micro_shard.first)
        run(self, *arguments)

    monkeypatch.setattr(MicroShardCapture, "run", noted)
    return found


def parts_of(tmp_path, parts):
    """The same sequences as so many shards."""
    folder = tmp_path / f"corpus of {parts}"
    return [
        write_shard(folder / f"heldout-{part:05d}.parquet", 40, micro_shards=MICRO_SHARDS, part=part, parts=parts)
        for part in range(parts)
    ]


@pytest.mark.parametrize("parts", [2, 4])
def test_another_number_of_jobs_captures_nothing_again(tmp_path, shard, model, monkeypatch, parts):
    out = tmp_path / "out"
    whole = capture(shard, model, out)
    merged_once = merged([whole], tmp_path / "once")

    def load(*arguments):
        raise AssertionError("the model is loaded")

    monkeypatch.setattr(job, "Subject", load)
    shards = [capture(part, model, out, shards=parts) for part in parts_of(tmp_path, parts)]
    assert read_provenance(shards[1].path("token_stats"))["shards"] == parts
    assert_same_up_to_rounding(merged_once, merged(shards, tmp_path / "again"), traced=False)


def merged(shards, folder):
    merge_shards([{kind: outputs.path(kind) for kind in SCHEMAS} for outputs in shards], folder, "code")
    outputs = CaptureOutputs(folder, "merged", False)
    for kind in SCHEMAS:
        (folder / f"{kind}.parquet").rename(outputs.path(kind))
    return outputs


def test_a_job_that_ends_early_leaves_what_another_division_uses(tmp_path, shard, model, captured):
    whole = contents(capture(shard, model, tmp_path / "whole"))
    del captured[:]
    with interrupted_at(1, of_micro_shard=60):
        capture(shard, model, tmp_path / "out")
    assert captured == [40, 50, 60]
    first, second = parts_of(tmp_path, 2)
    capture(second, model, tmp_path / "out", shards=2)
    capture(first, model, tmp_path / "out", shards=2)
    assert captured == [40, 50, 60, 60, 70], "the third went on, the last was new, the others were there"
    assert contents(capture(shard, model, tmp_path / "out")) == whole


def test_a_deleted_file_is_put_together_again_without_the_model(tmp_path, shard, model, captured):
    outputs = capture(shard, model, tmp_path / "out")
    whole = contents(outputs)
    del captured[:]
    outputs.path("token_stats").unlink()
    assert contents(capture(shard, model, tmp_path / "out")) == whole and captured == []


def test_a_deleted_micro_shard_is_captured_again_and_no_other(tmp_path, shard, model, captured):
    outputs = capture(shard, model, tmp_path / "out")
    whole = contents(outputs)
    del captured[:]
    outputs.path("trace").unlink()
    (lost,) = outputs.state.glob("heldout-0000000060-*.trace.parquet")
    lost.unlink()
    assert contents(capture(shard, model, tmp_path / "out")) == whole and captured == [60]


def test_two_jobs_share_the_micro_shards_of_one_shard(tmp_path, model, parent):
    """As when a job lives on that Snakemake has lost sight of: each micro-shard is captured by one of the two."""
    shard = write_shard(tmp_path / "corpus.parquet", sequences=96, micro_shards=8)
    whole = contents(capture(shard, model, tmp_path / "whole"))
    processes = CaptureProcesses(parent, shard, model)
    out, logs = tmp_path / "out", [tmp_path / "log1", tmp_path / "log2"]
    both = [processes.start(out, log, lock_stale_s=10) for log in logs]
    assert [processes.wait(process) for process in both] == [0, 0]
    said = [log.read_text() for log in logs]
    assert "".join(said).count("beginning with the first batch") == 8
    assert contents(CaptureOutputs(out, "heldout-00000", True)) == whole and not unfinished(out)


def test_files_that_a_lost_job_has_finished_are_left_alone(tmp_path, shard, model):
    outputs = capture(shard, model, tmp_path / "out")
    before = {kind: outputs.path(kind).stat().st_mtime_ns for kind in outputs.kinds}
    capture(shard, model, tmp_path / "out")
    assert {kind: outputs.path(kind).stat().st_mtime_ns for kind in outputs.kinds} == before


def test_what_was_kept_under_other_settings_is_removed_when_the_shard_is_whole(tmp_path, shard, model):
    outputs = capture(shard, model, tmp_path / "out")
    before = set(outputs.state.glob("*.parquet"))
    other = job.CaptureConfig(batch_sequences=4)
    capture(shard, model, tmp_path / "out", other)
    after = set(outputs.state.glob("*.parquet"))
    assert len(before) == len(after) == MICRO_SHARDS * len(outputs.kinds) and not before & after


def test_what_was_kept_of_another_number_of_micro_shards_is_removed_too(tmp_path, shard, model):
    outputs = capture(shard, model, tmp_path / "out")
    halves = write_shard(tmp_path / "halves" / shard.name, 40, micro_shards=MICRO_SHARDS // 2)
    capture(halves, model, tmp_path / "out")
    kept = {path.name.split("-")[1] for path in outputs.state.glob("*.parquet")}
    assert kept == {"0000000040", "0000000060"}
    assert len(list(outputs.state.glob("*.parquet"))) == 2 * len(outputs.kinds)


def test_a_job_that_waits_for_another_ends_when_its_time_is_up(tmp_path, shard, model):
    whole = capture(shard, model, tmp_path / "out")
    (lost,) = whole.state.glob("heldout-0000000060-*.trace.parquet")
    lost.unlink()
    stem = lost.name.removesuffix(".trace.parquet")
    patient = CONFIG.model_copy(update={"lock_wait_s": 60, "deadline_margin_s": 0})
    started = time.monotonic()
    with ShardLock(whole.state / "locks" / f"{stem}.lock", 120, 0), pytest.raises(VarError, match="time is nearly up"):
        capture(shard, model, tmp_path / "out", patient, seconds=2)
    assert time.monotonic() - started < 20


def test_micro_shards_of_different_plans_are_not_put_together(tmp_path, shard, model):
    """Their names are digests, so this takes somebody's hand."""
    outputs = capture(shard, model, tmp_path / "out")
    outputs.path("token_stats").unlink()
    (path,) = outputs.state.glob("heldout-0000000050-*.layer_stats.parquet")
    import pyarrow.parquet as pq

    write_table(path, pq.read_table(path), {**read_provenance(path), "plan": "another"})
    with pytest.raises(VarError, match=r"0000000050-.*layer_stats\.parquet: was captured under another plan") as error:
        capture(shard, model, tmp_path / "out")
    assert "\n" not in str(error.value)


def test_every_token_is_counted_once(tmp_path, shard, model):
    record = read_provenance(capture(shard, model, tmp_path / "out").path("token_stats"))
    assert record["tokens"] == 40 * LENGTH
