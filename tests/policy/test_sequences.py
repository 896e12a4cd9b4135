"""Following sequences through passes, against doing so one token after another."""

from types import SimpleNamespace

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from var_core.policy.sequences import Sequences


def plainly(ids, counts, positions):
    """Each token of a whole sequence: whether it starts a document, what was before it, its places."""
    found, previous, number, place = [], -1, 0, 0
    for token, counted, position in zip(ids, counts, positions, strict=True):
        if not counted:
            found.append((False, -1, -1, -1))
            continue
        starts = position == 0 or place == 0
        if starts:
            previous, number = -1, 0
        found.append((starts, previous, number, place))
        previous, number, place = token, number + 1, place + 1
    return found


@given(st.integers(0, 2**31), st.integers(1, 3), st.lists(st.integers(1, 6), min_size=1, max_size=4))
@settings(max_examples=200, deadline=None)
def test_passes_are_followed_as_one_token_after_another(seed, rows, lengths):
    random = np.random.default_rng(seed)
    shape = (rows, sum(lengths))
    ids, positions, counts = random.integers(5, size=shape), random.integers(4, size=shape), random.random(shape) < 0.7
    sequences, parts, done = Sequences(), [], 0
    for length in lengths:
        now = slice(done, done + length)
        given_now = {
            "input_ids": torch.from_numpy(ids[:, now]),
            "position_ids": torch.from_numpy(positions[:, now]),
            "attention_mask": torch.from_numpy(counts[:, : now.stop].astype(np.int64)),
            "past_key_values": SimpleNamespace(get_seq_length=lambda done=done: done),
        }
        tokens, fresh = sequences.read(given_now)
        assert fresh == (done == 0) and torch.equal(tokens.counts, torch.from_numpy(counts[:, now]))
        parts.append(torch.stack((tokens.starts.long(), tokens.previous, tokens.position, tokens.place), dim=2))
        done += length
    found = torch.cat(parts, dim=1).tolist()
    for row in range(rows):
        expected = plainly(ids[row].tolist(), counts[row].tolist(), positions[row].tolist())
        assert [tuple(each) for each in found[row]] == expected
