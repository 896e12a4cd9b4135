"""Ten thousand shards: what is said of them, and what it costs to say it."""

import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from capture_processes import ROOT
from var_core.capture.lock import Owner
from var_core.config.layers import load_layers
from var_core.config.root import Config
from var_core.errors import VarError
from var_core.job import logged
from var_core.progress import Progress
from var_core.status.logs import read_end
from var_core.status.run import read_status
from var_core.status.text import as_text

SHARDS = 10_000
OTHERS = 3
"""shards of the other splits, all waiting"""
RUNNING, KILLED, FAILED = range(9_000, 9_040), range(9_100, 9_120), range(9_200, 9_203)
WAITING = range(9_500, 10_000)


@pytest.fixture
def config(config_file):
    config = load_layers([config_file])
    numbers = {
        name: getattr(config.capture, name).model_copy(update={"capture": SHARDS})
        for name in ("shards", "micro_shards")
    }
    return config.model_copy(update={"capture": config.capture.model_copy(update=numbers)})


@pytest.fixture
def many(results) -> Path:
    """Results of a run under way on other machines: files as captures leave them, with nothing in most."""
    folder = results / "mine" / "text" / "capture"
    logs = results / "logs" / "capture_shard" / "mine" / "text"
    (folder / ".state" / "locks").mkdir(parents=True)
    splits = {"capture": {"shards": [{"micro_shards": [{"first": 10 * shard}]} for shard in range(SHARDS)]}}
    (results / "mine" / "text" / "corpus" / "manifest.json").write_text(json.dumps({"splits": splits}))
    logs.mkdir(parents=True)
    unfinished = {*RUNNING, *KILLED, *FAILED, *WAITING}
    for shard in range(SHARDS):
        if shard not in unfinished:
            for kind in ("token_stats", "expert_counts", "layer_stats"):
                (folder / f"capture-{shard:05d}.{kind}.parquet").touch()
            (logs / f"capture-{shard:05d}.log").touch()
    for shard in (*RUNNING, *KILLED):
        elsewhere = replace(Owner.this_process(), place="elsewhere", host="n1", job="77")
        stem = f"capture-{10 * shard:010d}-{shard:016x}"
        lock = folder / ".state" / "locks" / f"{stem}.lock-2"
        lock.write_text(json.dumps(asdict(elsewhere)))
        if shard in KILLED:
            os.utime(lock, (time.time() - 1000,) * 2)
        state = folder / ".state" / stem
        state.mkdir()
        (state / "checkpoint-a.safetensors").touch()
        with logged(logs / f"capture-{shard:05d}.log"), Progress(1000, "token", "capture", done=0) as bar:
            time.sleep(0.002)
            bar.advance(250)
    for shard in FAILED:
        with pytest.raises(SystemExit), logged(logs / f"capture-{shard:05d}.log"):
            raise VarError(f"shard {shard}: NaN; load the model in a wider dtype")
    return results


def test_all_are_counted_and_the_rest_is_reckoned(many, config):
    (run,) = read_status(many, config).runs
    counts = run.capture.counts
    assert (counts["running"], counts["resumable"], counts["failed"], counts["waiting"]) == (40, 20, 3, 503)
    assert counts["done"] == SHARDS + OTHERS - 566
    rates = [shard.work.rate for shard in run.capture.shards if shard.state == "running"]
    assert run.capture.rate == pytest.approx(sum(rates))
    # 60 have a quarter of a thousand behind them; the others are taken to have a thousand each.
    assert run.capture.remaining_s == pytest.approx((60 * 750 + 506 * 1000) / sum(rates))
    assert {shard.owner for shard in run.capture.shards if shard.state == "running"} == {
        f"process {os.getpid()} on n1, job 77"
    }


def test_lists_are_cut(many, config):
    text = as_text(read_status(many, config), listed=20)
    assert "and 20 more (--list 40 names them)" in text
    assert "shard 9200: NaN; load the model in a wider dtype" in text
    assert f"9437 of {SHARDS + OTHERS} shards, 40 running, 3 failed, 20 resumable, 503 waiting" in text
    assert len(text.splitlines()) < 100


@contextmanager
def counted():
    """Count what is opened and listed by this process; of what is only asked for, Python reports nothing."""
    seen = []
    active = [True]
    sys.addaudithook(lambda event, _: seen.append(event) if active[0] and event in WATCHED else None)
    try:
        yield seen
    finally:
        active[0] = False


WATCHED = ("open", "os.listdir", "os.scandir")


def test_it_is_quick_and_touches_few_files(many, config):
    with counted() as seen:
        start = time.process_time()
        read_status(many, config)
        seconds = time.process_time() - start
    # Of each that runs or was killed a log, a lock, a listing, and the number of this machine's boot; a log of each
    # that failed; and less than twenty for all the rest.
    assert 60 * 3 <= len(seen) < 60 * 4 + 3 + 20
    assert seconds < 2


def test_the_whole_command_is_quick(many, tmp_path, config):
    (tmp_path / "many.yaml").write_text(
        json.dumps({"capture": {name: {"capture": SHARDS, "heldout": 1} for name in ("shards", "micro_shards")}})
    )
    command = [sys.executable, "-m", "var_core.status", str(many), "--configfile", "config.yaml", "many.yaml"]
    start = time.monotonic()
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr
    assert f"9437 of {SHARDS + OTHERS} shards" in run.stdout
    assert time.monotonic() - start < 10


def test_other_stages_and_other_runs(results, config: Config):
    own = results / "mine" / "text"
    for name in (
        "hypotheses/verdicts.json",
        "policy/policy.json",
        "evaluation/policy.losses.parquet",
        "figures/expert_load.png",
        "figures/coactivation.png",
    ):
        (own / name).parent.mkdir(parents=True, exist_ok=True)
        (own / name).touch()
    with pytest.raises(SystemExit), logged(results / "logs" / "build_warehouse.log"):
        raise VarError("results/var.duckdb: no room")
    with pytest.raises(SystemExit), logged(results / "logs" / "evaluate_controls" / "mine" / "text" / "controls-1.log"):
        raise VarError("the model's decisions cannot be replaced")
    with logged(results / "logs" / "fetch_model" / "mine.log"):
        pass
    (results / "old" / "words" / "capture").mkdir(parents=True)
    status = read_status(results, config)
    stages = (*status.runs[0].before, *status.runs[0].after)
    states = {stage.name: (stage.state, stage.done, stage.total) for stage in stages}
    assert states == {
        "model": ("begun", 0, 1), "corpus": ("done", 1, 1), "statistics": ("waiting", 0, 7),
        "hypotheses": ("done", 1, 1), "tuning": ("waiting", 0, 7), "policy": ("done", 1, 1),
        "evaluation": ("failed", 1, 7), "certificate": ("waiting", 0, 1), "systems": ("waiting", 0, 5),
        "figures": ("waiting", 2, 19), "report": ("waiting", 0, 1),
    }  # fmt: skip
    (evaluation,) = (stage for stage in stages if stage.name == "evaluation")
    assert "cannot be replaced" in evaluation.lines[-1] and "evaluate_controls" in evaluation.log
    assert status.warehouse.state == "failed" and "no room" in status.warehouse.lines[-1]
    assert status.others == ("old/words",)
    text = as_text(status, 20)
    assert "also there, of another configuration (name it with --configfile): old/words" in text
    assert "results/var.duckdb: no room" in text


def test_a_fault_of_the_program_shows_its_last_lines(tmp_path):
    def stage():
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError), logged(tmp_path / "log"):
        stage()
    end = read_end(tmp_path / "log")
    assert end.error[-1] == "RuntimeError: a bug" and len(end.error) == 4


def test_an_error_that_a_library_logs_is_none_of_the_stage(tmp_path):
    import logging

    with logged(tmp_path / "log"):
        logging.getLogger("transformers").error("something odd")
    assert read_end(tmp_path / "log").error == ()


def test_recorded_routing_has_no_shards_to_capture(results, config):
    values = config.model_dump(mode="json")
    values["models"] = {"mine": {"source": "trace", "experts": 8, "top_k": 2}}
    values["corpora"] = {"text": {"source": "trace", "format": "parquet", "domains": {"prose": ["*.parquet"]}}}
    (run,) = read_status(results, Config.model_validate(values)).runs
    assert run.capture is None and [stage.name for stage in run.before] == ["model", "import"]
    # No policy can run in a model that is not there.
    assert [stage.name for stage in run.after] == ["statistics", "hypotheses", "systems", "figures", "report"]
    assert [stage.total for stage in run.after if stage.name == "systems"] == [3]


def test_the_stages_of_a_policy_are_shown_only_where_one_is_made(results, config):
    def names(enabled):
        policy = config.policy.model_copy(update={"enabled": enabled})
        (run,) = read_status(results, config.model_copy(update={"policy": policy})).runs
        return [stage.name for stage in run.after]

    assert set(names(True)) - set(names(False)) == {"tuning", "policy", "evaluation", "certificate"}


@pytest.mark.parametrize(("change", "files"), [({}, 5), ({"offload": False}, 4), ({"enabled": False}, None)])
def test_what_is_shown_of_systems_is_what_is_asked_for(results, config, change, files):
    systems = config.systems
    if "offload" in change:
        change = {"offload": systems.offload.model_copy(update={"enabled": change["offload"]})}
    (run,) = read_status(results, config.model_copy(update={"systems": systems.model_copy(update=change)})).runs
    assert [stage.total for stage in run.after if stage.name == "systems"] == ([] if files is None else [files])


def test_the_logs_of_a_policy_s_stages_are_found(results, config):
    """Each job's own log, by the names of the rules."""
    logs = ("probe_losses/mine/text", "make_policy/mine/text", "evaluate_policy/mine/text", "certify_policy/mine/text",
            "run_offloaded/mine/text")  # fmt: skip
    for log in logs:
        with logged(results / "logs" / f"{log}.log"):
            pass
    (run,) = read_status(results, config).runs
    states = {stage.name: (stage.state, stage.log) for stage in run.after}
    for stage, log in zip(("tuning", "policy", "evaluation", "certificate", "systems"), logs, strict=True):
        assert states[stage] == ("begun", str(results / "logs" / f"{log}.log"))


def test_a_lock_that_names_nobody_counts_as_alive_until_it_is_old(results, config):
    locks = results / "mine" / "text" / "capture" / ".state" / "locks"
    locks.mkdir(parents=True)
    lock = locks / "capture-0000000010-0123456789abcdef.lock-1"
    lock.touch()
    assert read_status(results, config).runs[0].capture.shards[1].state == "running"
    os.utime(lock, (time.time() - 1000,) * 2)
    assert read_status(results, config).runs[0].capture.shards[1].state == "waiting"


def test_a_shard_that_is_being_put_together_is_running(results, config):
    locks = results / "mine" / "text" / "capture" / ".state" / "locks"
    locks.mkdir(parents=True)
    (locks / "capture-00001.lock-1").write_text(json.dumps(asdict(Owner.this_process())))
    assert [shard.state for shard in read_status(results, config).runs[0].capture.shards[:2]] == ["waiting", "running"]
