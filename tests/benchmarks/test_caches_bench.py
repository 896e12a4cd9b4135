"""The benchmark of caches: what is timed counts the same, and too little trace is no excuse."""

import pytest

from var_core.benchmarks import caches
from var_core.errors import VarError
from var_core.systems.replay import Capacity, replay


def test_figures_are_there_and_plain_python_counts_the_same(monkeypatch):
    monkeypatch.setattr(caches, "TOKENS", 400)
    section = caches.caches_section(rounds=2)
    assert {"caches_lru", "caches_belady", "caches_prefetching", "caches_plain_over_lru"} <= section.figures.keys()
    assert 0 < section.about["hit_rate"] < 1


def test_a_replay_that_counts_otherwise_is_noticed(monkeypatch):
    monkeypatch.setattr(caches, "TOKENS", 400)
    monkeypatch.setattr(caches, "plain_lru", lambda accesses, capacity: -1)
    with pytest.raises(VarError, match="count different hits"):
        caches.caches_section(rounds=1)


def test_the_plain_replay_is_lru():
    accesses = caches.synthetic_accesses(50)
    sizes = [1] * caches.LAYERS
    import numpy as np

    for size in (8, 100, 400):
        found = replay(accesses, "lru", Capacity.of_all(size, np.array(sizes)), False)
        assert caches.plain_lru(accesses, size) == found.hits.sum()
