import itertools
import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from var_core.corpus.schema import token_shard_schema
from var_core.corpus.shards import ContentDigest, TokenRows, TokenShard, position_ids, write_token_shard
from var_core.errors import VarError
from var_core.parquet import read_provenance, write_table

LENGTH = 8


def rows(sequences=6, seed=0):
    """Rows of two domains."""
    generator = np.random.default_rng(seed)
    return [
        TokenRows(
            domain,
            np.arange(start, start + sequences, dtype=np.int32),
            generator.integers(50_000, size=(sequences, LENGTH), dtype=np.int32),
            np.sort(generator.integers(9, size=(sequences, LENGTH), dtype=np.int32), axis=1),
        )
        for domain, start in (("code", 40), ("prose", 40 + sequences))
    ]


def content(pieces):
    digest = ContentDigest()
    for piece in pieces:
        digest.add(piece)
    return digest.hexdigest()


def write(path, pieces, **provenance):
    record = {"stage": "corpus", "sequence_length": LENGTH, "content": content(pieces), **provenance}
    write_token_shard(path, LENGTH, pieces, record)
    return path


def test_a_shard_reads_as_it_was_written(tmp_path):
    pieces = rows()
    shard = TokenShard(write(tmp_path / "a.parquet", pieces, split="heldout"))
    for start, piece in zip((0, 6), pieces, strict=True):
        read = shard.rows(start, start + 6)
        assert read.domain == piece.domain
        assert_same_rows(read, piece)
    assert shard.domain.tolist() == ["code"] * 6 + ["prose"] * 6
    assert shard.tokens == 12 * LENGTH and shard.length == LENGTH
    assert shard.largest_token == max(piece.input_ids.max() for piece in pieces)
    assert shard.provenance["split"] == "heldout"
    assert pq.read_table(tmp_path / "a.parquet").schema.equals(token_shard_schema(LENGTH))


def assert_same_rows(read, piece, part=slice(None)):
    for name in ("input_ids", "document", "sequence"):
        values = getattr(read, name)
        assert values.dtype == np.int32
        assert np.array_equal(values, getattr(piece, name)[part])


@given(st.lists(st.integers(1, 29)), st.lists(st.tuples(st.integers(0, 29), st.integers(1, 30))))
def test_any_rows_in_any_order_are_read_however_the_file_is_cut(borders, asked):
    pieces = rows(sequences=30)
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder, "a.parquet"), pieces[:1], content=content(pieces[:1]))
        write_token_shard(path, LENGTH, cut(pieces[:1], borders), read_provenance(path))
        shard = TokenShard(path)
        for start, count in asked:
            part = slice(start, min(start + count, 30))
            assert_same_rows(shard.rows(part.start, part.stop), pieces[0], part)


def test_memory_holds_a_shard_s_row_groups_only_as_they_are_asked_for(tmp_path):
    """A shard of 4 million tokens in 64 row groups: reading it from end to end takes less than an eighth of it."""
    length, sequences = 1 << 10, 64
    generator = np.random.default_rng(0)
    pieces = [
        TokenRows(
            "code",
            np.arange(start, start + sequences, dtype=np.int32),
            *generator.integers(50_000, size=(2, sequences, length), dtype=np.int32),
        )
        for start in range(0, 64 * sequences, sequences)
    ]
    path = tmp_path / "a.parquet"
    record = {"stage": "corpus", "sequence_length": length, "content": content(pieces)}
    write_token_shard(path, length, pieces, record)
    size = sum(piece.input_ids.nbytes + piece.document.nbytes for piece in pieces)
    before, held = pa.total_allocated_bytes(), []
    tracemalloc.start()
    try:
        shard = TokenShard(path)
        for start in range(0, len(shard.domain), 5):
            shard.rows(start, min(start + 5, len(shard.domain)))
            held.append(pa.total_allocated_bytes() - before)
        _, python = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 0 < max(held) + python < size / 8


def test_a_shard_that_is_written_anew_while_in_use_is_not_mixed_with_the_old_one(tmp_path):
    path = write(tmp_path / "a.parquet", rows())
    shard = TokenShard(path)
    shard.rows(0, 3)
    write(path, rows(seed=1))
    shard.rows(3, 6)  # held already
    with pytest.raises(VarError, match=r"a\.parquet: was written anew while it was in use; run this job again"):
        shard.rows(6, 9)


def cut(pieces, borders):
    for piece in pieces:
        parts = np.split(np.arange(len(piece.sequence)), sorted({b for b in borders if b < len(piece.sequence)}))
        for part in parts:
            if len(part):
                yield TokenRows(piece.domain, piece.sequence[part], piece.input_ids[part], piece.document[part])


@given(st.lists(st.integers(1, 5)))
def test_the_digest_is_the_same_however_rows_are_cut(borders):
    assert content(cut(rows(), borders)) == content(rows())


@pytest.mark.parametrize("name", ["sequence", "input_ids", "document", "domain"])
def test_the_digest_notices_one_changed_value(name):
    code, prose = rows()
    values = {key: getattr(code, key) for key in ("domain", "sequence", "input_ids", "document")}
    if name == "domain":
        values[name] = "cod"
    else:
        values[name] = values[name].copy()
        values[name].flat[3] += 1
    assert content([TokenRows(**values), prose]) != content([code, prose])


def test_rows_that_do_not_match_the_digest_are_refused(tmp_path):
    path = write(tmp_path / "a.parquet", rows())
    table, record = pq.read_table(path), read_provenance(path)
    write_table(path, pa.concat_tables([table.slice(1), table.slice(0, 1)]), record)
    with pytest.raises(VarError, match=r"a\.parquet: its rows do not match its digest; delete it"):
        TokenShard(path)


def test_what_is_not_a_shard_is_refused(tmp_path):
    with pytest.raises(VarError, match="no such file"):
        TokenShard(tmp_path / "none.parquet")
    with pytest.raises(VarError, match="is not a shard of token sequences"):
        TokenShard(write(tmp_path / "a.parquet", rows(), stage="capture"))
    with pytest.raises(VarError, match="has other columns"):
        TokenShard(write(tmp_path / "b.parquet", rows(), sequence_length=LENGTH + 1))


def positions_by_the_book(document):
    result = []
    for row in document.tolist():
        positions, previous = [], None
        for owner in row:
            positions.append(positions[-1] + 1 if owner == previous else 0)
            previous = owner
        result.append(positions)
    return result


@given(hnp.arrays(np.int32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=20), elements=st.integers(0, 2)))
def test_positions_restart_exactly_at_borders(document):
    positions = position_ids(document)
    assert positions.dtype == np.int64
    assert positions.tolist() == positions_by_the_book(document)


def test_a_document_that_goes_on_in_the_next_sequence_starts_anew_there():
    document = np.array([[4, 4, 5, 5], [5, 5, 5, 6]], dtype=np.int32)
    assert position_ids(document).tolist() == [[0, 1, 0, 1], [0, 1, 2, 0]]
    # Control: numbering every sequence straight through gives something else.
    assert position_ids(document).tolist() != [list(range(4))] * 2


def test_a_shard_of_no_more_than_one_domain_reads_too(tmp_path):
    pieces = list(itertools.islice(rows(), 1))
    assert set(TokenShard(write(tmp_path / "a.parquet", pieces)).domain) == {"code"}
