"""Files that do not belong together are refused, by name, before anything is read from them."""

import pyarrow.parquet as pq
import pytest

from var_core.errors import VarError
from var_core.parquet import read_provenance, write_table
from var_core.warehouse.files import EVALUATION_FILES, SYSTEMS_FILES, TUNING_FILES
from var_core.warehouse.provenance import check_provenance


@pytest.fixture(scope="module")
def sound(simulated_run, tmp_path_factory):
    return simulated_run(sequences={"capture": 6, "heldout": 6}).write(tmp_path_factory.mktemp("results"))


@pytest.fixture
def change(sound):
    """Rewrite a file with other provenance for the time of a test; give its path."""
    before = {}

    def rewrite(path, **changes):
        before[path] = path.read_bytes()
        write_table(path, pq.read_table(path).replace_schema_metadata(None), {**read_provenance(path), **changes})
        return path

    yield rewrite
    for path, content in before.items():
        path.write_bytes(content)


def test_a_sound_run_gives_the_records_of_its_splits(sound):
    records = check_provenance(sound)
    assert list(records) == ["capture", "heldout"]
    # The plan names the split, so the splits' plans differ and that is no fault.
    assert records["capture"]["plan"] != records["heldout"]["plan"]


def pick(files, which):
    return {
        "merged": files.statistics_file("heldout", "expert_counts"),
        "shard": files.shard_token_stats["capture"][1],
        "trace": files.traces["heldout"][0],
    }[which]


@pytest.mark.parametrize("which", ["merged", "shard", "trace"])
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("plan", "another plan"),
        ("model", {"name": "sim-a", "revision": "abcdef0", "digest": "another digest"}),
        ("model", {"name": "another model", "revision": "abcdef0", "digest": "digest-sim-a"}),
        ("corpus", {"name": "text", "digest": "another digest"}),
        ("corpus", {"name": "another corpus", "digest": "digest-text"}),
        ("split", "train"),
    ],
)
def test_a_file_of_something_else_is_named(sound, change, which, key, value):
    path = change(pick(sound, which), **{key: value})
    with pytest.raises(VarError) as error:
        check_provenance(sound)
    message = str(error.value)
    assert message.startswith(f"{path}: was made for {key} ")
    assert "another" in message or "train" in message
    assert sound.run in message and "\n" not in message


@pytest.mark.parametrize("key", ["plan", "sites", "sequence_length"])
def test_a_file_whose_provenance_is_incomplete_is_named(sound, key):
    path = pick(sound, "merged")
    content, record = path.read_bytes(), read_provenance(path)
    del record[key]
    write_table(path, pq.read_table(path).replace_schema_metadata(None), record)
    try:
        with pytest.raises(VarError, match=f"{path}: its provenance does not say its {key}"):
            check_provenance(sound)
    finally:
        path.write_bytes(content)


def test_splits_captured_with_other_settings_are_refused(sound, change):
    paths = [path for split, _, path in sound.captured() if split == "heldout"]
    for path in paths:
        change(path, config={"seed": 7})
    with pytest.raises(VarError, match=r'heldout.*: was made for config \{"seed":7\}'):
        check_provenance(sound)


@pytest.mark.parametrize("which", ["merged", "shard", "trace"])
def test_a_missing_file_is_named(sound, which):
    path = pick(sound, which)
    content = path.read_bytes()
    path.unlink()
    try:
        with pytest.raises(VarError, match=f"{path}: no such file"):
            check_provenance(sound)
    finally:
        path.write_bytes(content)


@pytest.mark.parametrize("name", ["vocabulary", "corpus_manifest", "model_record", "verdicts", "training"])
def test_other_missing_files_are_named(sound, name):
    path = getattr(sound, name)
    content = path.read_bytes()
    path.unlink()
    try:
        with pytest.raises(VarError, match=f"{path}: no such file"):
            check_provenance(sound)
    finally:
        path.write_bytes(content)


@pytest.mark.parametrize("table", EVALUATION_FILES)
def test_a_missing_table_of_an_evaluation_is_named(sound, table):
    path = sound.evaluation[table]
    content = path.read_bytes()
    path.unlink()
    try:
        with pytest.raises(VarError, match=f"{path}: no such file"):
            check_provenance(sound)
    finally:
        path.write_bytes(content)


@pytest.mark.parametrize("table", [table for table in EVALUATION_FILES if table != "transfer"])
@pytest.mark.parametrize("key", ["model", "corpus", "statistics"])
def test_an_evaluation_of_another_run_s_policy_is_named(sound, change, table, key):
    policy = read_provenance(sound.evaluation[table])["policy"]
    path = change(sound.evaluation[table], policy={**policy, key: "another digest"})
    with pytest.raises(VarError, match=f"{path}: was made for {key} another digest, but run {sound.run} has {key} "):
        check_provenance(sound)


def test_tables_of_two_policies_of_one_run_are_refused(sound, change):
    policy = read_provenance(sound.evaluation["certificates"])["policy"]
    path = change(sound.evaluation["certificates"], policy={**policy, "calibration": "another digest"})
    with pytest.raises(VarError, match=f'{path}: was made for policy .*"calibration":"another digest"'):
        check_provenance(sound)


@pytest.mark.parametrize(("key", "value"), [("run", "another/run"), ("corpus", {"name": "text", "digest": "another"})])
def test_a_transfer_on_another_run_s_text_is_named(sound, change, key, value):
    text = read_provenance(sound.evaluation["transfer"])["text"]
    path = change(sound.evaluation["transfer"], text={**text, key: value})
    with pytest.raises(VarError, match=f"{path}: was made for {key} .*another"):
        check_provenance(sound)


def test_a_table_that_does_not_say_its_policy_is_named(sound, change):
    path = change(sound.evaluation["policies"], policy=None)
    with pytest.raises(VarError, match=f"{path}: its provenance does not say its policy"):
        check_provenance(sound)


def test_a_file_that_is_no_parquet_is_named(sound):
    path = pick(sound, "shard")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    try:
        with pytest.raises(VarError, match=str(path)):
            check_provenance(sound)
    finally:
        path.write_bytes(content)


def test_a_file_with_other_columns_is_named(sound):
    path = pick(sound, "merged")
    content, table = path.read_bytes(), pq.read_table(path)
    write_table(path, table.drop_columns("first").replace_schema_metadata(None), read_provenance(path))
    try:
        with pytest.raises(VarError, match=f"{path}: has other columns than expert_counts should have .*first"):
            check_provenance(sound)
    finally:
        path.write_bytes(content)


def test_long_values_are_cut_in_messages(sound, change):
    path = change(pick(sound, "merged"), sites=[{"layer": i, "path": "x" * 50} for i in range(40)])
    with pytest.raises(VarError) as error:
        check_provenance(sound)
    assert str(path) in str(error.value) and len(str(error.value)) < 700


@pytest.mark.parametrize("table", TUNING_FILES)
@pytest.mark.parametrize("key", ["model", "corpus", "statistics"])
def test_a_study_of_another_run_is_named(sound, change, table, key):
    made_from = read_provenance(sound.tuning[table])["made_from"]
    path = change(sound.tuning[table], made_from={**made_from, key: "another digest"})
    with pytest.raises(VarError, match=f"{path}: was made for {key} another digest, but run {sound.run} has {key} "):
        check_provenance(sound)


def test_a_study_that_does_not_say_what_it_was_made_from_is_named(sound, change):
    path = change(sound.tuning["tuning_front"], made_from=None)
    with pytest.raises(VarError, match=f"{path}: its provenance does not say what it was made_from; run its stage"):
        check_provenance(sound)


@pytest.mark.parametrize("table", SYSTEMS_FILES)
@pytest.mark.parametrize("key", ["model", "corpus", "statistics"])
def test_systems_of_another_run_s_policy_are_named(sound, change, table, key):
    policy = read_provenance(sound.systems[table])["policy"]
    path = change(sound.systems[table], policy={**policy, key: "another digest"})
    with pytest.raises(VarError, match=f"{path}: was made for {key} another digest, but run {sound.run} has {key} "):
        check_provenance(sound)


@pytest.mark.parametrize("table", ["costs", "cache_simulations", "break_even"])
def test_systems_of_another_run_are_named(sound, change, table):
    path = change(sound.systems[table], run="another/run", policy=None)
    with pytest.raises(VarError, match=f"{path}: was made for run another/run, but run {sound.run} has run"):
        check_provenance(sound)


def test_systems_of_another_policy_than_was_evaluated_are_refused(sound, change):
    policy = read_provenance(sound.systems["profiles"])["policy"]
    path = change(sound.systems["profiles"], policy={**policy, "calibration": "another digest"})
    with pytest.raises(VarError, match=f'{path}: was made for policy .*"calibration":"another digest"'):
        check_provenance(sound)


def test_systems_that_do_not_say_what_they_are_of_are_named(sound, change):
    path = change(sound.systems["offloaded"], policy=None)
    with pytest.raises(VarError, match=f"{path}: its provenance says neither its run nor its policy; run its stage"):
        check_provenance(sound)


def test_systems_of_a_run_without_a_policy_belong_to_it(simulated_run, tmp_path):
    run = simulated_run(sequences={"capture": 6, "heldout": 6})
    files = run.write(tmp_path, evaluated=False, tuned=False)
    assert list(files.systems) == ["costs", "cache_simulations", "break_even"]
    check_provenance(files)
