"""Where the files of a run are."""

import pytest

from var_core.errors import VarError
from var_core.warehouse.files import EVALUATION_FILES, SYSTEMS_FILES, TUNING_FILES, RunFiles, shard_number
from var_core.warehouse.run import open_run


def names(paths):
    return [path.name for path in paths]


def test_everything_is_named_by_the_layout(results, small):
    files = RunFiles.in_results(results, small.model, small.corpus)
    assert files.run == "sim-a/text"
    folder = results / "sim-a" / "text"
    assert files.statistics == {split: folder / "statistics" / split for split in ("capture", "heldout")}
    assert names(files.shard_token_stats["capture"]) == [f"capture-0000{i}.token_stats.parquet" for i in range(3)]
    assert names(files.shard_expert_counts["heldout"]) == [f"heldout-0000{i}.expert_counts.parquet" for i in range(2)]
    assert names(files.traces["heldout"]) == [f"heldout-0000{i}.trace.parquet" for i in range(2)]
    assert files.traces["capture"] == ()
    assert files.training == results / "models" / "sim-a" / "training.csv"
    assert files.verdicts == folder / "hypotheses" / "verdicts.parquet"
    for path in (files.vocabulary, files.corpus_manifest, files.model_record, *(p for _, _, p in files.captured())):
        assert path.exists()


def test_what_a_run_does_not_have_is_none(results, other):
    files = RunFiles.in_results(results, other.model, other.corpus)
    assert files.training is None and files.verdicts is None
    assert not files.evaluation and not files.tuning and not files.systems
    assert not any(files.traces.values())


def test_shards_left_by_an_earlier_configuration_are_passed_over(results, simulated_run, tmp_path):
    files = simulated_run(sequences={"capture": 6, "heldout": 6}).write(tmp_path)
    left_over = files.shard_token_stats["capture"][0].with_name("capture-00003.token_stats.parquet")
    left_over.write_bytes(files.shard_token_stats["capture"][0].read_bytes())
    assert left_over not in RunFiles.in_results(tmp_path, files.model, files.corpus).shard_token_stats["capture"]
    told = RunFiles.in_results(tmp_path, files.model, files.corpus, shards={"capture": 4, "heldout": 2})
    assert told.shard_token_stats["capture"][-1] == left_over


def test_a_missing_shard_is_named_so_that_its_absence_is_noticed(simulated_run, tmp_path):
    files = simulated_run(sequences={"capture": 6, "heldout": 6}).write(tmp_path)
    for path in (files.shard_token_stats["capture"][1], files.traces["heldout"][0]):
        path.unlink()
    again = RunFiles.in_results(tmp_path, files.model, files.corpus)
    assert again.shard_token_stats == files.shard_token_stats and again.traces == files.traces


def test_traces_left_by_an_earlier_configuration_are_passed_over(simulated_run, tmp_path):
    run = simulated_run(sequences={"capture": 6, "heldout": 6})
    files = run.write(tmp_path, traced=("capture", "heldout"))
    assert len(files.traces["capture"]) == 3
    told = RunFiles.in_results(tmp_path, files.model, files.corpus, shards_of(files), ["heldout"])
    assert told.traces == {"capture": (), "heldout": files.traces["heldout"]}
    files.traces["capture"][0].write_bytes(b"no Parquet")
    with open_run(told) as connection:
        assert connection.execute("SELECT DISTINCT split FROM traces").fetchall() == [("heldout",)]


ONLY_OF_SOME = pytest.mark.parametrize(
    ("stage", "tables", "told"),
    [("evaluation", EVALUATION_FILES, "evaluated"), ("tuning", TUNING_FILES, "tuned")],
)


@ONLY_OF_SOME
def test_the_tables_of_an_evaluation_or_a_study_are_all_named_or_none(simulated_run, tmp_path, stage, tables, told):
    files = simulated_run(sequences={"capture": 6, "heldout": 6}).write(tmp_path)
    found = getattr(files, stage)
    assert set(found) == set(tables)
    assert all(path.parent.name == stage and path.exists() for path in found.values())
    list(found.values())[-1].unlink()
    assert getattr(RunFiles.in_results(tmp_path, files.model, files.corpus), stage) == found
    for path in found.values():
        path.unlink(missing_ok=True)
    assert not getattr(RunFiles.in_results(tmp_path, files.model, files.corpus), stage)
    assert getattr(RunFiles.in_results(tmp_path, files.model, files.corpus, **{told: True}), stage) == found


@ONLY_OF_SOME
def test_what_an_earlier_configuration_left_is_passed_over(simulated_run, tmp_path, stage, tables, told):
    files = simulated_run(sequences={"capture": 6, "heldout": 6}).write(tmp_path)
    for path in getattr(files, stage).values():
        path.write_bytes(b"no Parquet")
    with open_run(RunFiles.in_results(tmp_path, files.model, files.corpus, **{told: False})) as connection:
        for table in tables:
            assert connection.execute(f"SELECT count(*) FROM {table}").fetchall() == [(0,)]


def test_of_systems_those_are_named_that_are_there_or_that_the_run_is_told_to_have(simulated_run, tmp_path):
    run = simulated_run(sequences={"capture": 6, "heldout": 6})
    files = run.write(tmp_path)
    assert list(files.systems) == list(SYSTEMS_FILES)
    assert all(path.parent.name == "systems" and path.exists() for path in files.systems.values())
    for table in ("profiles", "break_even"):
        files.systems[table].unlink()
    assert list(RunFiles.in_results(tmp_path, run.model, run.corpus).systems) == [
        "costs",
        "cache_simulations",
        "offloaded",
    ]
    told = RunFiles.in_results(tmp_path, run.model, run.corpus, systems=["costs", "break_even"])
    assert told.systems == {table: files.systems[table] for table in ("costs", "break_even")}
    assert not RunFiles.in_results(tmp_path, run.model, run.corpus, systems=()).systems


def shards_of(files):
    return {split: len(paths) for split, paths in files.shard_token_stats.items()}


def test_paths_without_statistics_can_be_named_before_anything_has_run(tmp_path):
    files = RunFiles.in_results(tmp_path, "m", "c", shards={"capture": 2, "heldout": 1})
    assert names(files.shard_token_stats["capture"]) == [f"capture-0000{i}.token_stats.parquet" for i in range(2)]
    assert files.traces == {"capture": (), "heldout": ()}


def test_numbers_of_shards_are_read_as_numbers(tmp_path):
    assert shard_number(tmp_path / "held-out-00012.trace.parquet") == 12
    with pytest.raises(VarError, match=r"capture\.token_stats\.parquet: not the name of a shard's file"):
        shard_number(tmp_path / "capture.token_stats.parquet")
