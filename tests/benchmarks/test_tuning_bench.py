"""The benchmark of tuning on a tiny run: a real model's decisions, and a real search over their replay."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from policy_subject import Subject
from policy_traces import Everything, write_trace
from var_core.benchmarks import pages, tuning, tuning_studies
from var_core.benchmarks.__main__ import main
from var_core.benchmarks.document import put
from var_core.benchmarks.tuning_run import TunedRun, decisions_of
from var_core.benchmarks.tuning_traces import PARTS, write_part
from var_core.benchmarks.tuning_worker import worker_processes
from var_core.config.policy import PolicyConfig
from var_core.config.tuning import TuningConfig
from var_core.errors import VarError
from var_core.files import read_json, write_json
from var_core.parquet import read_table, write_table
from var_core.policy.make import Recorded
from var_core.policy.settings import PolicySettings
from var_core.policy.store import save_tables
from var_core.statistics.tables import LAYER_STATS, TOKEN_STATS
from var_core.tuning.loss_model import LossModel
from var_core.tuning.prepared import PreparedTrace
from var_core.tuning.search import collect_trials, run_search
from var_core.tuning.stage import Search

ROOT = Path(__file__).resolve().parents[2]
SEQUENCES, LENGTH, VOCABULARY, TRIALS = 16, 24, 30, 12
REFERENCE = 0.4


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run, as far as the benchmark reads it."""
    subject, own = Subject.of("mixtral"), TunedRun(tmp_path_factory.mktemp("results"), "m", "c")
    random = torch.Generator().manual_seed(0)
    ids, other = (torch.randint(VOCABULARY, (SEQUENCES, LENGTH), generator=random) for _ in range(2))
    tables = subject.table(other, subject.decisions(other))
    agreement = torch.rand(tables.present.shape, generator=random).masked_fill(~tables.present, float("nan"))
    everything, nothing = Everything(), replace(tables, usable=torch.zeros_like(tables.usable))
    with subject.policy(nothing, PolicySettings(), observers=[everything]):
        subject.logits(ids)
    record = {
        "run": "m/c", "model": {"digest": "1"}, "corpus": {"name": "c", "digest": "2"}, "content": "3",
        "sites": [vars(shape) for shape in subject.layout.layers], "vocabulary": tables.vocabulary,
        "config": {"isolate_documents": True},
    }  # fmt: skip
    document = np.repeat(np.arange(SEQUENCES)[:, None], LENGTH, axis=1)
    trace = own.folder / "capture" / "calibration-00000.trace.parquet"
    write_trace(trace, ids, document, everything.records, subject.layout.experts, record)
    cells = [(layer, token) for layer in range(len(subject.layout)) for token in range(VOCABULARY)]
    moments = {f"{name}_{moment}": 0.3 for name in ("confidence", "margin") for moment in ("mean", "m2")}
    rows = [
        {"domain": "d", "layer": layer, "token_id": token, "n": token, "router_entropy_mean": token / 10, **moments}
        for layer, token in cells
    ]
    folder = own.folder / "statistics" / "capture"
    write_table(folder / "token_stats.parquet", pa.Table.from_pylist(rows, TOKEN_STATS), record)
    write_table(folder / "layer_stats.parquet", LAYER_STATS.empty_table(), record)
    saved = own.folder / "tuning" / "tables" / "token.safetensors"
    save_tables(saved, replace(tables, agreement=agreement))
    loss = LossModel((0.1,) * len(subject.layout), 0.2, 4.0, 0.01, 0.1, 12)
    write_json(own.loss_model, {"model": loss.record(), "reference": REFERENCE})
    _search(own, folder, trace, saved)
    return own


def _search(own, statistics, trace, tables):
    """A search, and the control beside it, as the stages make them."""
    policy, config = PolicyConfig(tables=("token",)), TuningConfig(trials=TRIALS)
    search = Search(Recorded(statistics, (), (trace,), Path("unused"), (tables,)), policy, config)
    files = {study: [own.folder / "tuning" / "studies" / f"{study}-0.parquet"] for study in ("search", "random")}
    for study, (path,) in files.items():
        run_search(search, study, 0, own.loss_model, path, "code")
    collect_trials(files, own.loss_model, config, own.folder / "tuning", "code")


def test_what_is_read_is_what_the_search_tried(run):
    run.check()
    rows = read_table(run.folder / "tuning" / "trials.parquet").to_pylist()[:TRIALS]
    evaluate = run.evaluator()
    assert [evaluate(policy).learned_share for policy in run.policies] == [row["learned_share"] for row in rows]
    assert run.decisions == SEQUENCES * LENGTH * len(run.search.recorded.layout)
    assert run.reference == REFERENCE
    assert run.spread(3) == tuple(run.policies[place] for place in (0, 4, 8))
    assert run.spread(100) == run.policies


def test_parts_of_a_trace_are_whole_sequences_and_repeats_are_decided_the_same(run, tmp_path):
    recorded = run.search.recorded
    paths = {name: write_part(recorded.calibration, tmp_path, name) for name in PARTS}
    assert {name: decisions_of([path]) for name, path in paths.items()} == {
        name: run.decisions * times for name, times in PARTS.items()
    }
    policy = next(each for each in run.policies if each.cache.capacity)
    share = run.evaluator()(policy).learned_share
    assert run.evaluator([paths["fourfold"]])(policy).learned_share == share
    tables = {"token": run.search.tables("token")}
    own = PreparedTrace([paths["fourfold"]], recorded.layout, tables, recorded.isolate_documents)
    assert own.sequence.tolist() == list(range(4 * SEQUENCES))


def test_trials_are_timed_alone_in_studies_by_length_and_beside_a_plain_replay(run, tmp_path):
    threads = torch.get_num_threads()
    section = tuning.tuning_section(run, rounds=2, trials=10, passes=2)
    assert section.environment["threads"] == 1 and torch.get_num_threads() == threads
    assert section.figures["tuning_replay_rate"].n == TRIALS
    assert section.figures["tuning_study_rate"].n == 2 * 9
    assert section.figures["tuning_plain_over_prepared"].n == 2
    others = ["replay_rate_of_all", "study_rate_of_all", "prepare_seconds", "study_beside_replay"]
    others += [f"growth_{name}" for name in PARTS]
    assert all(section.figures[f"tuning_{name}"].minimum > 0 for name in others)
    about = section.about
    for key, figure in (("replay", "tuning_replay_rate"), ("study", "tuning_study_rate")):
        low, high = about[f"{key}_quartiles"]
        own = section.figures[figure]
        assert own.minimum <= low <= own.median <= high <= own.maximum
    assert [name for name, _ in about["lengths"]] == list(PARTS)
    assert about["lengths"][-1][1] == 32 * about["lengths"][0][1]
    assert about["fit"]["r_squared"] <= 1
    text = _page(tmp_path, [section])
    assert [name for row in text.splitlines() if (name := row.split(" | ")[0][2:]) in PARTS] == list(PARTS)
    assert "### Trials of a search" in text and "### Samplers" not in text and "### Workers" not in text


def test_a_prepared_replay_that_decides_otherwise_is_not_timed(run, monkeypatch):
    evaluator = TunedRun.evaluator

    def wrong(self, traces=None):
        evaluate = evaluator(self, traces)
        return lambda policy: replace(evaluate(policy), learned_share=0.123)

    monkeypatch.setattr(TunedRun, "evaluator", wrong)
    with pytest.raises(VarError, match="does not come to"):
        tuning._beside_plain(run, 2)


@pytest.mark.slow
def test_samplers_and_workers_are_measured_and_go_onto_the_page(run, tmp_path):
    samplers = tuning_studies.samplers_section(run, seeds=2, at=(5, 10))
    for sampler in ("tpe", "nsga2", "random"):
        early, late = (samplers.figures[f"tuning_hypervolume_{sampler}_{trials}"] for trials in (5, 10))
        assert 0 < early.median <= late.median < 100 and late.n == 2
    workers = tuning_studies.workers_section(run, numbers=(1, 2), trials=10, rounds=2)
    alone, both = (workers.figures[f"tuning_workers_{number}_rate"] for number in (1, 2))
    faster = workers.figures["tuning_workers_2_over_1"]
    assert alone.n == both.n == faster.n == 2
    assert both.minimum / alone.maximum <= faster.median <= both.maximum / alone.minimum
    trials = tuning.tuning_section(run, rounds=1, trials=10, passes=1)
    sections = {section.name: section for section in (trials, samplers, workers)}
    for some in (["tuning"], ["tuning_samplers", "tuning_workers"], list(sections)):
        text = _page(tmp_path, [sections[name] for name in some])
        assert ("### Trials of a search" in text) == ("tuning" in some)
        assert ("### Samplers" in text) == ("tuning_samplers" in some)
        assert ("### Workers" in text) == ("tuning_workers" in some)
    assert "| tpe | " in text and "| 2 | " in text


def _page(folder, sections):
    for name in (Path("docs/templates/benchmarks.md.j2"), pages.NUMBERS):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes((ROOT / name).read_bytes())
    document = read_json(folder / pages.NUMBERS)
    for name in [name for name in document["sections"] if name.startswith("tuning")]:
        for key in document["sections"].pop(name)["keys"]:
            document.pop(key)
    write_json(folder / pages.NUMBERS, document)
    for section in sections:
        put(folder / pages.NUMBERS, section)
    return pages.render(folder)


@pytest.mark.parametrize(
    "missing",
    [
        "tuning/trials.parquet", "tuning/loss_model.json", "tuning/studies/search-0.parquet",
        "tuning/tables/token.safetensors", "capture/calibration-00000.trace.parquet",
        "statistics/capture/token_stats.parquet",
    ],
)  # fmt: skip
def test_what_is_missing_is_said_in_one_line(run, tmp_path, missing):
    shutil.copytree(run.folder, tmp_path / "m" / "c")
    (tmp_path / "m" / "c" / missing).unlink()
    with pytest.raises(VarError) as error:
        main(["tuning", "--results", str(tmp_path), "--model", "m", "--corpus", "c", "--output", str(tmp_path / "x")])
    said = str(error.value)
    assert "\n" not in said and missing.rpartition("/")[2].partition("00000")[0] in said and "--results" in said
    assert not (tmp_path / "x").exists()


def test_a_worker_that_fails_says_why_in_one_line(run, tmp_path):
    with (
        worker_processes(TunedRun(tmp_path, "m", "c"), 1) as (worker,),
        pytest.raises(VarError, match=r"a worker failed \(1\): error: .*no such file") as error,
    ):
        worker.prepare({})
        worker.ready()
    assert "\n" not in str(error.value)
