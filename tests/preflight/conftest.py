"""A site to check: a folder with a configuration."""

import functools
from collections.abc import Callable
from pathlib import Path

import pytest

from preflight_runs import run_preflight

Preflight = Callable[..., tuple[int, dict[str, tuple[str, str]], str]]


@pytest.fixture
def preflight(tmp_path: Path) -> Preflight:
    """:func:`preflight_runs.run_preflight` in a folder of its own."""
    return functools.partial(run_preflight, tmp_path)
