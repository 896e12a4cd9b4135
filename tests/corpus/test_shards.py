import itertools

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from var_core.corpus.schema import token_shard_schema
from var_core.corpus.shards import ContentDigest, TokenRows, position_ids, read_token_shard, write_token_shard
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
    shard = read_token_shard(write(tmp_path / "a.parquet", pieces, split="heldout"))
    for name in ("input_ids", "document", "sequence"):
        values = getattr(shard, name)
        assert values.dtype == np.int32
        assert np.array_equal(values, np.concatenate([getattr(piece, name) for piece in pieces]))
    assert shard.domain.tolist() == ["code"] * 6 + ["prose"] * 6
    assert shard.provenance["split"] == "heldout"
    assert pq.read_table(tmp_path / "a.parquet").schema.equals(token_shard_schema(LENGTH))


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
        read_token_shard(path)


def test_what_is_not_a_shard_is_refused(tmp_path):
    with pytest.raises(VarError, match="no such file"):
        read_token_shard(tmp_path / "none.parquet")
    with pytest.raises(VarError, match="is not a shard of token sequences"):
        read_token_shard(write(tmp_path / "a.parquet", rows(), stage="capture"))
    with pytest.raises(VarError, match="has other columns"):
        read_token_shard(write(tmp_path / "b.parquet", rows(), sequence_length=LENGTH + 1))


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
    assert set(read_token_shard(write(tmp_path / "a.parquet", pieces)).domain) == {"code"}
