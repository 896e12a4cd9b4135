"""Where the files of a run are."""

import pytest

from var_core.errors import VarError
from var_core.warehouse.files import EVALUATION_FILES, RunFiles, shard_number
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
    assert files.training is None and files.verdicts is None and not files.evaluation
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


def test_the_tables_of_an_evaluation_are_all_named_or_none(simulated_run, tmp_path):
    files = simulated_run(sequences={"capture": 6, "heldout": 6}).write(tmp_path)
    assert set(files.evaluation) == set(EVALUATION_FILES)
    assert all(path.parent.name == "evaluation" and path.exists() for path in files.evaluation.values())
    files.evaluation["transfer"].unlink()
    assert RunFiles.in_results(tmp_path, files.model, files.corpus).evaluation == files.evaluation
    for path in files.evaluation.values():
        path.unlink(missing_ok=True)
    assert not RunFiles.in_results(tmp_path, files.model, files.corpus).evaluation
    assert RunFiles.in_results(tmp_path, files.model, files.corpus, evaluated=True).evaluation == files.evaluation


def test_an_evaluation_left_by_an_earlier_configuration_is_passed_over(simulated_run, tmp_path):
    files = simulated_run(sequences={"capture": 6, "heldout": 6}).write(tmp_path)
    files.evaluation["evaluations"].write_bytes(b"no Parquet")
    told = RunFiles.in_results(tmp_path, files.model, files.corpus, evaluated=False)
    with open_run(told) as connection:
        assert connection.execute("SELECT count(*) FROM evaluations").fetchall() == [(0,)]


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
