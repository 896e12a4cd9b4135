"""Recorded decisions made for tests of caches."""

import numpy as np

from var_core.systems.accesses import Decisions


def decisions_of(experts, width, sequence=None, token_id=None, domain="text", document=None):
    """Decisions [T, L, k] of one sequence, or of those that are given."""
    tokens = len(experts)
    sequence = np.zeros(tokens, np.int64) if sequence is None else np.asarray(sequence, np.int64)
    begun = np.append(True, np.diff(sequence) != 0)
    place = np.arange(tokens) - np.maximum.accumulate(np.where(begun, np.arange(tokens), 0))
    return Decisions(
        sequence=sequence,
        place=place,
        document=sequence if document is None else np.asarray(document, np.int64),
        experts=np.asarray(experts).astype(np.int16),
        width=width,
        domain=np.broadcast_to(np.asarray(domain), tokens),
        token_id=None if token_id is None else np.asarray(token_id, np.int64),
        source="a test",
    )


def random_decisions(tokens, layers=3, width=6, k=2, sequences=4, seed=0, alphabet=None):
    """Decisions of random text; with an alphabet each token id has its own experts."""
    random = np.random.default_rng(seed)
    sequence = np.repeat(np.arange(sequences), tokens)
    ids = random.integers(0, alphabet or 20, len(sequence))
    draws = random.random((len(sequence), layers, width))
    if alphabet:
        draws = np.random.default_rng(99).random((alphabet, layers, width))[ids]
    return decisions_of(draws.argsort(axis=2)[:, :, :k], width, sequence, ids)
