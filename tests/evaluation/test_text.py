"""Sequences that policies are evaluated on: clusters of them share no group of documents."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from captures import LENGTH, write_shard
from var_core.errors import VarError
from var_core.evaluation.text import Selection, independent_clusters, select_text

GROUPS = st.lists(st.lists(st.integers(0, 15), min_size=1, max_size=3), max_size=60)


@given(GROUPS, st.integers(1, 20), st.integers(1, 5))
def test_clusters_share_no_group_and_are_no_larger_than_allowed(groups, most, per_cluster):
    own = [np.unique(each) for each in groups]
    chosen, cluster = independent_clusters(own, Selection(most, per_cluster, 0))
    assert len(chosen) == len(cluster) == len(set(chosen.tolist())) <= most
    owner = {}
    for place, number in zip(chosen.tolist(), cluster.tolist(), strict=True):
        for group in own[place].tolist():
            assert owner.setdefault(group, number) == number
    assert all(count <= per_cluster for count in np.bincount(cluster, minlength=1))
    assert np.unique(cluster).tolist() == list(range(len(set(cluster.tolist()))))


@given(st.integers(1, 30), st.integers(1, 40))
def test_sequences_with_nothing_in_common_are_all_taken(count, most):
    chosen, cluster = independent_clusters([np.array([number]) for number in range(count)], Selection(most, 1, 0))
    assert chosen.tolist() == cluster.tolist() == list(range(min(count, most)))


def test_a_sequence_that_would_join_two_clusters_is_passed_over():
    groups = [np.array([0]), np.array([1]), np.array([0, 1]), np.array([0, 2]), np.array([2])]
    chosen, cluster = independent_clusters(groups, Selection(10, 3, 0))
    assert chosen.tolist() == [0, 1, 3, 4]
    assert cluster.tolist() == [0, 1, 0, 0]


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """Two shards of 40 sequences, ``documents.parquet`` with two documents a group, and the rows by number."""
    folder = tmp_path_factory.mktemp("packed")
    shards = [
        write_shard(folder / f"heldout-{part:05d}.parquet", sequences=40, micro_shards=2, part=part, parts=2)
        for part in range(2)
    ]
    rows = {}
    for path in shards:
        for row in pq.read_table(path).to_pylist():
            rows[row["sequence"]] = (row["input_ids"], row["document"], row["domain"])
    numbers = sorted({number for _, documents, _ in rows.values() for number in documents})
    table = {"document": numbers, "group": [f"g{number // 200}" for number in numbers]}
    pq.write_table(pa.table(table), folder / "documents.parquet")
    return shards, folder / "documents.parquet", rows


def test_sequences_of_a_split_are_drawn_with_what_is_in_them(packed):
    shards, documents, rows = packed
    text = select_text(shards, documents, Selection(20, 2, 0), True, 4)
    assert 10 <= len(text) <= 20 and text.isolate_documents and text.batch_sequences == 4
    assert (np.diff(text.sequence) > 0).all()
    for place, number in enumerate(text.sequence.tolist()):
        ids, document, domain = rows[number]
        assert text.input_ids[place].tolist() == ids and text.document[place].tolist() == document
        assert text.domain[place] == domain
    again = select_text(shards, documents, Selection(20, 2, 0), True, 4)
    assert again.sequence.tolist() == text.sequence.tolist()
    other = select_text(shards, documents, Selection(20, 2, 1), True, 4)
    assert other.sequence.tolist() != text.sequence.tolist()


@pytest.mark.parametrize("stride", [4, 8])
def test_sliding_windows_score_every_token_once_behind_what_was_before_it(packed, stride):
    shards, documents, rows = packed
    whole = select_text(shards, documents, Selection(20, 2, 0, stride=stride), True, 4)
    length, number = LENGTH, LENGTH // stride
    assert (whole.scored.sum(axis=1) == stride).all() and len(set(whole.sequence.tolist())) == len(whole)
    tokens = {key: (np.array(ids), np.array(document)) for key, (ids, document, _) in rows.items()}
    with_context = 0
    for place in range(0, len(whole), number):
        own = whole.rows(slice(place, place + number))
        sequence = int(own.sequence[0]) // number
        assert len(set(own.cluster.tolist())) == 1
        scored = [own.input_ids[each][own.scored[each]] for each in range(number)]
        assert np.concatenate(scored).tolist() == tokens[sequence][0].tolist()
        for each in range(number):
            first = int(np.flatnonzero(own.scored[each])[0])
            end, before = (each + 1) * stride, sequence - 1
            if first == length - stride and end < length:
                with_context += 1
                stream = [np.concatenate([tokens[before][part], tokens[sequence][part]]) for part in range(2)]
                window = slice(end, end + length)
                assert own.input_ids[each].tolist() == stream[0][window].tolist()
                assert own.document[each].tolist() == stream[1][window].tolist()
                assert rows[before][2] == rows[sequence][2]
            else:
                assert own.input_ids[each].tolist() == tokens[sequence][0].tolist() and first == end - stride
    assert with_context > 5


@pytest.mark.parametrize("stride", [16, 5, 32])
def test_a_stride_that_does_not_fit_is_refused(packed, stride):
    with pytest.raises(VarError, match=f"evaluation.stride: {stride} does not divide"):
        select_text(*packed[:2], Selection(20, 2, 0, stride=stride), True, 4)


def test_a_domain_can_be_asked_for(packed):
    shards, documents, _ = packed
    assert set(select_text(shards, documents, Selection(20, 2, 0, "prose"), True, 4).domain) == {"prose"}
    with pytest.raises(VarError, match="no sequences of domain verse"):
        select_text(shards, documents, Selection(20, 2, 0, "verse"), True, 4)
