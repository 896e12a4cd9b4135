"""One run's files as a database in memory."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from var_core.corpus.schema import VOCABULARY
from var_core.errors import VarError
from var_core.parquet import read_provenance, write_table
from var_core.warehouse.files import EVALUATION_FILES, SYSTEMS_FILES, TUNING_FILES, RunFiles
from var_core.warehouse.run import open_run


@pytest.fixture(scope="module")
def files(results, small):
    return RunFiles.in_results(results, small.model, small.corpus)


@pytest.fixture(scope="module")
def connection(files):
    with open_run(files) as opened:
        yield opened


def test_the_run_itself(connection, small, files):
    names = "run, model, corpus, model_source, model_revision, model_digest, corpus_digest, plan"
    names_and_digests = connection.execute(f"SELECT {names} FROM runs").fetchall()
    assert names_and_digests == [
        ("sim-a/text", "sim-a", "text", "demo", "abcdef0", "digest-sim-a", "digest-text", "plan-sim-a/text-capture")
    ]
    sizes = "layers, experts, top_k, sequence_length, capture_tokens, heldout_tokens"
    assert connection.execute(f"SELECT {sizes} FROM runs").fetchall() == [(3, 8, 2, 16, 1440, 720)]
    record = json.loads(connection.execute("SELECT provenance FROM runs").fetchall()[0][0])
    assert record["statistics"] == {split: small.provenance(split) for split in ("capture", "heldout")}
    assert record["model"]["path"] == "." and record["corpus"] == {"documents": 3}


def test_layers(connection):
    got = connection.execute("FROM layers ORDER BY layer").fetchall()
    assert got == [("sim-a/text", layer, f"model.layers.{layer}.mlp.experts", 8, 2) for layer in range(3)]


def test_tokens_are_the_whole_vocabulary_with_occurrences(connection, small):
    got = connection.execute("SELECT * FROM tokens ORDER BY token_id").fetchnumpy()
    assert list(got["token_id"]) == list(range(63)) and got["token"][5] == "tok'5"
    assert list(np.flatnonzero(got["special"])) == [0, 1]
    for split in ("capture", "heldout"):
        expected = np.bincount(small.decisions[split].token, minlength=63)
        np.testing.assert_array_equal(got[f"{split}_count"], expected)
    assert (got["capture_count"][-3:] == 0).all()


@pytest.mark.parametrize("kind", ["token_stats", "expert_counts"])
def test_large_tables_are_the_files_rows(connection, files, kind):
    got = connection.sql(f"SELECT * EXCLUDE (run, split) FROM {kind} WHERE split = 'heldout'").to_arrow_table()
    expected = pq.read_table(files.statistics_file("heldout", kind))
    assert got.to_pylist() == expected.to_pylist()


def test_experts_by_domain_and_pooled(connection, small):
    decisions = small.decisions["capture"]
    hot = decisions.hot(small.experts)
    for place, domain in enumerate(small.domains):
        mine = decisions.domain == domain
        sql = f"SELECT chosen, tokens FROM domain_counts WHERE split = 'capture' AND domain = '{domain}' ORDER BY ALL"
        got = connection.execute(sql.replace("ORDER BY ALL", "ORDER BY layer, expert")).fetchnumpy()
        np.testing.assert_array_equal(got["chosen"], hot[:, mine].sum(1).ravel(), err_msg=str(place))
        assert (got["tokens"] == mine.sum()).all()
    got = connection.execute("FROM expert_load WHERE split = 'capture' ORDER BY layer, expert").fetchnumpy()
    np.testing.assert_array_equal(got["chosen"], hot.sum(1).ravel())
    first = [np.bincount(row, minlength=small.experts) for row in decisions.first]
    np.testing.assert_array_equal(got["first"], np.ravel(first))
    weights = np.zeros((small.layers, small.experts))
    layer = np.broadcast_to(np.arange(small.layers)[:, None, None], decisions.experts.shape)
    np.add.at(weights, (layer, decisions.experts), decisions.weights)
    np.testing.assert_allclose(got["weight_sum"], weights.ravel(), rtol=1e-12)
    assert (got["tokens"] == len(decisions.token)).all()


def test_matrices_keep_their_orientation(connection, small):
    decisions = small.decisions["heldout"]
    hot = decisions.hot(small.experts)
    joint = np.zeros((small.experts, small.experts), dtype=int)
    np.add.at(joint, (decisions.first[1], decisions.first[2]), 1)
    assert (joint != joint.T).any()
    got = connection.execute(
        "FROM crosslayer WHERE split = 'heldout' AND layer = 1 ORDER BY expert, next_expert"
    ).fetchnumpy()
    assert set(got["next_layer"]) == {2}
    np.testing.assert_array_equal(got["first"], joint.ravel())
    np.testing.assert_array_equal(got["chosen"], (hot[1].T @ hot[2]).ravel())
    assert got["first_shuffled"].sum() == len(decisions.token)
    pairs = connection.execute(
        "FROM coactivation WHERE split = 'heldout' AND layer = 0 ORDER BY expert, other_expert"
    ).fetchnumpy()
    np.testing.assert_array_equal(pairs["count"], (hot[0].T @ hot[0]).ravel())


def test_traces_are_the_decisions_in_order(connection, small):
    got = connection.execute("SELECT * FROM traces ORDER BY sequence, position, layer").fetchall()
    decisions = small.decisions["heldout"]
    assert len(got) == small.layers * len(decisions.token)
    row = dict(zip([c[0] for c in connection.execute("FROM traces LIMIT 0").description], got[4], strict=True))
    assert (row["run"], row["split"], row["sequence"], row["position"], row["layer"]) == (
        small.name,
        "heldout",
        0,
        1,
        1,
    )
    assert row["experts"] == list(decisions.experts[1, 1]) and row["token_id"] == decisions.token[1]
    assert row["domain"] == "code" and row["weights"] == pytest.approx(list(decisions.weights[1, 1]))


def test_shards_keep_their_numbers_and_sum_to_the_whole(connection, small):
    got = connection.execute(
        "SELECT shard, sum(n) FROM shard_token_stats WHERE split = 'capture' GROUP BY shard ORDER BY shard"
    ).fetchall()
    expected = [(i, 3 * len(small.shard("capture", i).token)) for i in range(3)]
    assert got == expected
    different = connection.execute(
        """
        SELECT count(*) FILTER (merged.chosen IS DISTINCT FROM shards.chosen)
        FROM (SELECT * EXCLUDE (first, weight_sum) FROM v_expert_counts) AS merged
        FULL JOIN (
            SELECT run, split, layer, token_id, expert, sum(chosen) AS chosen FROM shard_expert_counts GROUP BY ALL
        ) AS shards USING (run, split, layer, token_id, expert)
        """
    ).fetchall()
    assert different == [(0,)]


def test_training_and_verdicts_with_columns_that_the_schema_does_not_know(connection):
    assert connection.execute("SELECT step, tokens, loss, learning_rate, gradient_norm FROM training").fetchall() == [
        (1, 96, 8.25, None, 1.0),
        (2, 192, 7.5, None, 0.5),
    ]
    verdicts = connection.execute(
        'SELECT run, hypothesis, layer, statistic, low, "null", layers_tested FROM hypotheses ORDER BY layer'
    ).fetchall()
    assert verdicts[0] == ("sim-a/text", "H1", 0, 0.25, None, "permutation", 3) and len(verdicts) == 3


@pytest.mark.parametrize("table", [*EVALUATION_FILES, *TUNING_FILES, *SYSTEMS_FILES])
def test_the_tables_of_later_stages_are_the_files_rows(connection, files, table):
    got = connection.sql(f"SELECT * EXCLUDE run FROM {table}").to_arrow_table()
    expected = pq.read_table({**files.evaluation, **files.tuning, **files.systems}[table])
    # As text, for NaN, which is not equal to itself.
    assert str(got.to_pylist()) == str(expected.to_pylist()) and len(expected)
    assert connection.execute(f"SELECT DISTINCT run FROM {table}").fetchall() == [(files.run,)]


def test_a_table_of_an_evaluation_with_other_columns_is_named(files, tmp_path):
    path = tmp_path / "gains.parquet"
    table = pq.read_table(files.evaluation["policy_gains"])
    write_table(path, table.replace_schema_metadata(None).rename_columns({"gain": "profit"}), read_provenance(
        files.evaluation["policy_gains"]
    ))  # fmt: skip
    changed = replace(files, evaluation={**files.evaluation, "policy_gains": path})
    with pytest.raises(VarError, match=rf"{path}: has other columns than policy_gains should have \(gain, profit\)"):
        open_run(changed)


def test_a_run_without_trace_training_and_verdicts_has_empty_tables(results, other):
    with open_run(RunFiles.in_results(results, other.model, other.corpus)) as connection:
        for table in ("traces", "training", "hypotheses", *EVALUATION_FILES, *TUNING_FILES, *SYSTEMS_FILES):
            assert connection.execute(f"SELECT count(*) FROM {table}").fetchall() == [(0,)]
        kinds = dict(connection.execute("SELECT column_name, column_type FROM (DESCRIBE traces)").fetchall())
        assert kinds["experts"] == "SMALLINT[]" and kinds["domain"] == "VARCHAR"


def test_a_run_without_single_shards_has_no_view_that_could_be_taken_for_zeros(files):
    alone = replace(files, shard_token_stats={}, shard_expert_counts={})
    with open_run(alone) as connection:
        assert connection.execute("SELECT count(*) FROM shard_token_stats").fetchall() == [(0,)]
        names = connection.execute("SELECT view_name FROM duckdb_views() WHERE NOT internal").fetchall()
        assert ("shard_expert_counts",) not in names


def test_a_token_that_the_vocabulary_lacks_is_named(files, tmp_path):
    vocabulary = tmp_path / "vocabulary.parquet"
    rows = [{"token_id": i, "token": str(i), "special": False} for i in range(7)]
    write_table(vocabulary, pa.Table.from_pylist(rows, VOCABULARY), {})
    with pytest.raises(VarError, match=rf"{vocabulary}: has no token id 7, which run sim-a/text counts"):
        open_run(replace(files, vocabulary=vocabulary))


def test_a_record_of_another_model_is_named(files, tmp_path):
    record = tmp_path / "model.json"
    record.write_text('{"model": "sim-a", "source": "demo", "digest": "another"}')
    with pytest.raises(VarError, match=rf"{record}: has digest another, but .* digest-sim-a"):
        open_run(replace(files, model_record=record))


def test_a_training_record_that_does_not_fit_is_named(files, tmp_path):
    for content in ("loss\n1.5\n", "step,loss\none,2\n", "step,loss\n1,\n"):
        training = tmp_path / "training.csv"
        training.write_text(content)
        with pytest.raises(VarError, match=f"{training}: does not fit table training"):
            open_run(replace(files, training=training))


def test_memory_limit_and_threads_are_set_and_nothing_is_left_behind(files, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    with open_run(files, memory_limit_mb=100, threads=2) as connection:
        assert connection.execute("SELECT current_setting('threads')").fetchall() == [(2,)]
        assert connection.execute("SELECT current_setting('memory_limit')").fetchall()[0][0].startswith("95")
        connection.execute("CREATE TEMP TABLE large AS SELECT i, hash(i) AS h FROM range(12_000_000) AS r(i)")
        assert list(tmp_path.iterdir())  # it spilled, and here
    assert not list(tmp_path.iterdir())
