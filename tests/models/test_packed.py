import numpy as np
import pytest

from var_core.corpus.packing import PackedDomain
from var_core.models.packed import Sequences, all_tokens


@pytest.fixture
def domains() -> dict[str, PackedDomain]:
    def domain(tokens: range, documents: list[int], ends: list[int]) -> PackedDomain:
        return PackedDomain(4, np.array(tokens, dtype=np.int32), np.array(documents, dtype=np.int32), np.array(ends))

    return {
        "a": domain(range(0, 18), [0, 3], [5, 18]),  # 4 sequences and 2 tokens over
        "b": domain(range(100, 103), [4], [3]),  # none
        "c": domain(range(200, 208), [5, 6], [4, 8]),  # 2 sequences
    }


def test_rows_come_in_the_order_asked_for(domains: dict[str, PackedDomain]) -> None:
    sequences = Sequences(domains)
    assert len(sequences) == 6
    assert sequences.domain.tolist() == ["a"] * 4 + ["c"] * 2
    input_ids, document = sequences.rows(np.array([5, 1, 4, 1]))
    assert input_ids.tolist() == [[204, 205, 206, 207], [4, 5, 6, 7], [200, 201, 202, 203], [4, 5, 6, 7]]
    assert document.tolist() == [[6] * 4, [0, 3, 3, 3], [5] * 4, [0, 3, 3, 3]]


@pytest.mark.parametrize(("limit", "expected"), [(3, [1, 3, 5]), (6, [0, 1, 2, 3, 4, 5]), (99, [0, 1, 2, 3, 4, 5])])
def test_spread_takes_the_same_share_of_every_domain(
    domains: dict[str, PackedDomain], limit: int, expected: list[int]
) -> None:
    assert Sequences(domains).spread(limit).tolist() == expected


def test_all_tokens_has_those_that_fill_no_sequence(domains: dict[str, PackedDomain]) -> None:
    tokens, document = all_tokens(domains)
    assert tokens.tolist() == [*range(18), *range(100, 103), *range(200, 208)]
    assert document.tolist() == [0] * 5 + [3] * 13 + [4] * 3 + [5] * 4 + [6] * 4
