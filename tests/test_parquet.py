import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from var_core.errors import VarError
from var_core.parquet import read_provenance, read_table, with_provenance, write_batches, write_table

TABLE = pa.table(
    {
        "domain": pa.array(["code", "code", "text"]).dictionary_encode(),
        "n": pa.array([1, 2, 3], pa.int64()),
        "mean": pa.array([0.1, 0.2, 0.3], pa.float64()),
        "experts": pa.array([[0, 1], [1], []], pa.list_(pa.int16())),
    }
)
PROVENANCE = {"stage": "test", "model": {"name": "m"}, "tokens": 6}


def test_a_table_comes_back_with_its_provenance(tmp_path):
    path = tmp_path / "deep" / "table.parquet"
    write_table(path, TABLE, PROVENANCE)
    assert read_table(path).equals(TABLE)
    assert read_table(path).schema.equals(TABLE.schema)
    assert read_provenance(path) == PROVENANCE
    assert read_table(path, columns=["n"]).column_names == ["n"]


def test_an_empty_table_keeps_its_schema(tmp_path):
    path = tmp_path / "empty.parquet"
    write_table(path, TABLE.slice(0, 0), PROVENANCE)
    assert read_table(path).num_rows == 0
    assert read_table(path).schema.equals(TABLE.schema)
    assert read_provenance(path) == PROVENANCE


def test_the_bytes_depend_on_nothing_but_the_content(tmp_path):
    one, two, other, chunked = (tmp_path / f"{name}.parquet" for name in ("one", "two", "other", "chunked"))
    write_table(one, TABLE, PROVENANCE)
    write_table(two, TABLE, dict(reversed(PROVENANCE.items())))
    write_table(other, TABLE, {**PROVENANCE, "tokens": 7})
    assert one.read_bytes() == two.read_bytes()
    assert one.read_bytes() != other.read_bytes()
    write_table(chunked, pa.concat_tables([TABLE.slice(0, 2), TABLE.slice(2)]), PROVENANCE)
    assert read_table(chunked).equals(TABLE)


def test_batches_are_streamed_a_row_group_each(tmp_path):
    path = tmp_path / "table.parquet"
    write_batches(path, TABLE.schema, TABLE.to_batches(max_chunksize=1), PROVENANCE)
    assert pq.ParquetFile(path).num_row_groups == 3
    assert read_table(path).equals(TABLE)


def test_provenance_is_added_to_what_the_schema_knows():
    schema = with_provenance(TABLE.schema.with_metadata({"kept": "yes"}), PROVENANCE)
    assert schema.metadata[b"kept"] == b"yes"
    assert schema.equals(TABLE.schema)
    assert TABLE.schema.metadata is None


def test_a_failure_between_batches_leaves_what_was_there(tmp_path):
    path = tmp_path / "table.parquet"
    write_table(path, TABLE, PROVENANCE)
    before = path.read_bytes()

    def batches():
        yield from TABLE.slice(0, 1).to_batches()
        raise RuntimeError("the source failed")

    with pytest.raises(RuntimeError, match="the source failed"):
        write_batches(path, TABLE.schema, batches(), {"stage": "other"})
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["table.parquet"]


def test_a_batch_of_another_schema_is_refused(tmp_path):
    with pytest.raises(ValueError, match="schema"):
        write_batches(tmp_path / "table.parquet", TABLE.schema, [pa.RecordBatch.from_pydict({"n": ["one"]})], {})
    assert not list(tmp_path.iterdir())


def test_provenance_without_a_number_is_refused(tmp_path):
    with pytest.raises(ValueError):
        write_table(tmp_path / "table.parquet", TABLE, {"loss": float("nan")})
    assert not list(tmp_path.iterdir())


def damaged(tmp_path, kind):
    path = tmp_path / "table.parquet"
    write_table(path, TABLE, PROVENANCE)
    whole = path.read_bytes()
    path.write_bytes(
        {
            "truncated": whole[:-20],
            "empty": b"",
            "text": b"not a table\n" * 10,
            "overwritten": whole[:4] + bytes(len(whole) - 204) + whole[-200:],
        }[kind]
    )
    return path


@pytest.mark.parametrize("kind", ["truncated", "empty", "text", "overwritten"])
@pytest.mark.parametrize("read", [read_table, read_provenance])
def test_a_damaged_file_is_named_in_one_line(tmp_path, kind, read):
    with pytest.raises(
        VarError, match=r"table\.parquet: not readable as Parquet \(.+\); if a stage wrote it"
    ) as caught:
        read(damaged(tmp_path, kind))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("read", [read_table, read_provenance])
def test_a_missing_file_is_named_in_one_line(tmp_path, read):
    with pytest.raises(VarError, match=r"none\.parquet: no such file; run the stage that makes it"):
        read(tmp_path / "none.parquet")


def test_a_missing_column_is_named(tmp_path):
    write_table(tmp_path / "table.parquet", TABLE, PROVENANCE)
    with pytest.raises(VarError, match=r"table\.parquet: .*entropy"):
        read_table(tmp_path / "table.parquet", columns=["entropy"])


def test_a_file_of_somebody_else_has_no_provenance(tmp_path):
    pq.write_table(TABLE, tmp_path / "table.parquet")
    with pytest.raises(VarError, match="carries no provenance record"):
        read_provenance(tmp_path / "table.parquet")
