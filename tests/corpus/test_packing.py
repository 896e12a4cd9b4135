import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from var_core.corpus.packing import pack
from var_core.corpus.tokenise import TokenBatch

DOMAINS = ("code", "prose", "verse")


@st.composite
def batches(draw):
    """Batches of documents of several domains; every token is different, so that none can be mistaken."""
    shapes = draw(
        st.lists(st.tuples(st.sampled_from(DOMAINS), st.lists(st.integers(0, 23), min_size=1, max_size=6)), max_size=8)
    )
    result, token, document = [], 0, 0
    for domain, lengths in shapes:
        count = sum(lengths)
        result.append(
            TokenBatch(
                domain,
                np.arange(token, token + count, dtype=np.int32),
                np.arange(document, document + len(lengths), dtype=np.int32),
                np.array(lengths, dtype=np.int64),
            )
        )
        token, document = token + count, document + len(lengths)
    return result


def lines(batches, domain):
    """Tokens of a domain in order, and the document of each, by the book."""
    chosen = [batch for batch in batches if batch.domain == domain]
    tokens = [token for batch in chosen for token in batch.tokens.tolist()]
    owners = [
        number
        for batch in chosen
        for number, length in zip(batch.documents.tolist(), batch.lengths.tolist(), strict=True)
        for _ in range(length)
    ]
    return tokens, owners


@given(batches(), st.integers(1, 16))
def test_packing_keeps_every_token_in_order_but_the_end_that_fills_no_sequence(batches, length):
    with tempfile.TemporaryDirectory() as scratch:
        packed = pack(batches, length, Path(scratch))
        assert list(packed) == sorted({batch.domain for batch in batches})
        for domain, line in packed.items():
            tokens, owners = lines(batches, domain)
            whole = len(tokens) // length * length
            assert (line.sequences, line.dropped) == (whole // length, len(tokens) - whole)
            input_ids, document = line.rows(np.arange(line.sequences))
            assert input_ids.shape == document.shape == (line.sequences, length)
            assert input_ids.dtype == document.dtype == np.int32
            assert input_ids.ravel().tolist() == tokens[:whole]
            assert document.ravel().tolist() == owners[:whole]


@given(batches(), st.integers(1, 8), st.randoms(use_true_random=False))
def test_sequences_can_be_read_in_any_choice(batches, length, random):
    with tempfile.TemporaryDirectory() as scratch:
        for line in pack(batches, length, Path(scratch)).values():
            everything = line.rows(np.arange(line.sequences))
            chosen = np.array([i for i in range(line.sequences) if random.random() < 0.5], dtype=np.int64)
            for some, all_ in zip(line.rows(chosen), everything, strict=True):
                assert np.array_equal(some, all_[chosen])


def test_tokens_left_by_another_packing_do_not_come_in(tmp_path):
    batch = TokenBatch("code", np.arange(8, dtype=np.int32), np.array([0], np.int32), np.array([8]))
    for _ in range(2):
        assert pack([batch], 4, tmp_path)["code"].sequences == 2
