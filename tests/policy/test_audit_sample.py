import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from var_core.policy.audit import is_audited

whole = st.integers(-(2**62), 2**62)


def grid(sequences, positions, layers):
    return np.ix_(np.arange(sequences), np.arange(positions), np.arange(layers))


@given(st.floats(0, 1), st.integers(0, 2**63), st.lists(st.tuples(whole, whole, whole), min_size=1, max_size=20))
def test_arrays_tensors_and_numbers_are_audited_alike(share, seed, places):
    columns = np.array(places, dtype=np.int64).T
    arrays = is_audited(share, seed, *columns)
    tensors = is_audited(share, seed, *(torch.from_numpy(column.copy()) for column in columns))
    assert arrays.tolist() == tensors.tolist() == [is_audited(share, seed, *place) for place in places]
    assert is_audited(share, seed, *columns.astype(np.int32)).dtype == np.bool_


def test_batching_changes_nothing():
    sequence, position, layer = grid(6, 50, 4)
    whole_text = is_audited(0.3, 7, sequence, position, layer)
    assert whole_text.shape == (6, 50, 4)
    for start in (0, 3):
        part = is_audited(0.3, 7, sequence[start : start + 3], position, layer)
        assert (part == whole_text[start : start + 3]).all()
    decoded = np.stack([is_audited(0.3, 7, sequence[:, 0], each, layer[0]) for each in range(50)], axis=1)
    assert (decoded == whole_text).all()
    assert (is_audited(0.3, 7, torch.from_numpy(sequence), torch.from_numpy(position), 2).numpy()[..., 0]
            == whole_text[..., 2]).all()  # fmt: skip


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5])
def test_the_share_is_kept_in_all_and_by_sequence_position_and_layer(share):
    audited = is_audited(share, 0, *grid(200, 128, 16))
    total = audited.size
    assert abs(audited.mean() - share) < 4 * np.sqrt(share * (1 - share) / total)
    for axis in range(3):
        counts = np.moveaxis(audited, axis, 0).reshape(audited.shape[axis], -1).sum(axis=1)
        size = total // len(counts)
        chi2 = ((counts - share * size) ** 2 / (share * (1 - share) * size)).sum()
        assert 1e-4 < stats.chi2.sf(chi2, len(counts)) < 1 - 1e-4


def test_neighbours_and_seeds_are_audited_independently():
    audited = is_audited(0.5, 0, *grid(100, 128, 16)).astype(float)
    other = is_audited(0.5, 1, *grid(100, 128, 16)).astype(float)
    pairs = [(audited[1:], audited[:-1]), (audited[:, 1:], audited[:, :-1]), (audited[..., 1:], audited[..., :-1])]
    for first, second in [*pairs, (audited, other)]:
        assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 4 / np.sqrt(first.size)


def test_a_smaller_share_is_part_of_a_larger_one():
    places = grid(20, 50, 4)
    shares = [is_audited(share, 3, *places) for share in (0.0, 0.05, 0.2, 1.0)]
    assert not shares[0].any() and shares[-1].all()
    assert (shares[1] <= shares[2]).all() and shares[1].any()


def by_definition(share, seed, *place):
    """The hash in numbers without limit: Wellons' mixer over the halves of seed, sequence, position and layer."""
    word, low = 0x9E3779B9, 2**32
    for part in (seed, *place):
        for half in (part % low, (part >> 32) % low):
            word = ((word ^ half) + 0x9E3779B9) % low
            word = (word ^ word >> 16) * 0x7FEB352D % low
            word = (word ^ word >> 15) * 0x846CA68B % low
            word ^= word >> 16
    return word < round(share * low)


@given(st.floats(0, 1), st.integers(0, 2**63), whole, whole, whole)
def test_the_hash_is_the_one_defined(share, seed, sequence, position, layer):
    place = sequence, position, layer
    assert is_audited(share, seed, *(np.array([part]) for part in place))[0] == by_definition(share, seed, *place)


def test_the_hash_never_changes():
    """Audits of a recorded run must be found again by later versions."""
    chosen = np.flatnonzero(is_audited(0.1, 42, np.int64(5), np.arange(100), np.int64(3)))
    assert chosen.tolist() == [3, 7, 31, 34, 46, 54, 56, 74, 78, 85, 91]
