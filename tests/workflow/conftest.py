"""One run of the whole small DAG, which the tests of this folder share."""

from pathlib import Path

import pytest

from workflow_runs.project import Project


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The project after a whole run; tests copy it and leave this one as it is."""
    made = Project.new(tmp_path_factory.mktemp("project"))
    result = made.snakemake()
    assert result.returncode == 0, result.stdout[-5000:] + result.stderr[-10000:]
    return made


@pytest.fixture(scope="module")
def project(finished: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The finished project, in a copy for the tests of one module."""
    folder: Path = tmp_path_factory.mktemp("copy")
    return finished.copy(folder)
