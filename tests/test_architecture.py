"""The walls of the house: who may import whom, and what no module may do."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import var_core

ROOT = Path(__file__).parents[1]
LIBRARY = ROOT / "var_core"
ROOMS = (
    "config", "corpus", "models", "routing", "statistics", "traces",
    "capture", "warehouse", "hypotheses", "policy", "evaluation", "tuning", "systems", "figures", "report",
    "status", "preflight", "benchmarks",
)  # fmt: skip
UNSAFE = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def modules(library: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(library.rglob("*.py")):
        yield ".".join(path.relative_to(library.parent).with_suffix("").parts), path


def imports(path: Path) -> Iterator[str]:
    """Dotted names that a file imports, at its top or inside functions; relative ones with their dots."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = "." * node.level + (node.module or "")
            yield from (f"{source}.{alias.name}" for alias in node.names)


def room_of(name: str) -> str | None:
    """The room of a dotted name of the library; None for the shared ground."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in ROOMS else None


def broken_walls(library: Path) -> list[str]:
    """Imports that run against the order of the rooms."""
    faults = []
    for name, path in modules(library):
        here = room_of(name)
        for imported in imports(path):
            there = room_of(imported) if imported.startswith("var_core.") else None
            if there and (here is None or ROOMS.index(there) > ROOMS.index(here)):
                faults.append(f"{name} imports {imported}")
    return faults


def test_a_room_imports_only_rooms_before_it():
    assert broken_walls(LIBRARY) == []


def test_a_broken_wall_is_found(tmp_path):
    library = tmp_path / "var_core"
    for name, text in {
        "files.py": "from var_core.config import base",
        "corpus/hub.py": "from var_core.config.base import Block",
        "corpus/late.py": "def later():\n    import var_core.figures.style",
        "models/own.py": "from var_core.models import folder",
    }.items():
        (library / name).parent.mkdir(parents=True, exist_ok=True)
        (library / name).write_text(text)
    assert broken_walls(library) == [
        "var_core.corpus.late imports var_core.figures.style",
        "var_core.files imports var_core.config.base",
    ]


def test_every_folder_of_the_library_is_a_known_room():
    assert {path.parent.name for path in LIBRARY.glob("*/__init__.py")} == set(ROOMS)


@pytest.mark.parametrize("forbidden", ["snakemake", *sorted(UNSAFE)])
def test_the_library_never_imports(forbidden):
    users = [name for name, path in modules(LIBRARY) for each in imports(path) if each.split(".")[0] == forbidden]
    assert users == []


def test_imports_are_absolute():
    assert [name for name, path in modules(LIBRARY) for each in imports(path) if each.startswith(".")] == []


def test_every_module_has_a_docstring():
    missing = [name for name, path in modules(LIBRARY) if not ast.get_docstring(ast.parse(path.read_text("utf-8")))]
    assert missing == []


def test_packages_hold_a_docstring_and_nothing_else():
    for room in ROOMS:
        body = ast.parse((LIBRARY / room / "__init__.py").read_text(encoding="utf-8")).body
        assert len(body) == 1, f"var_core/{room}/__init__.py runs code when anything of the room is imported"


def test_scripts_are_thin():
    """A script reads what the workflow says and calls the library; whatever decides or repeats belongs there."""
    logic = ast.FunctionDef | ast.ClassDef | ast.For | ast.While | ast.If | ast.Try
    for path in sorted((ROOT / "workflow_scripts").glob("*.py")):
        used = {each.split(".")[0] for each in imports(path)} - sys.stdlib_module_names
        assert used <= {"snakemake", "var_core", "pydantic", "torch"}, path.name
        body = ast.parse(path.read_text(encoding="utf-8")).body
        body = [node for node in body if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")]
        assert not [node for part in body for node in ast.walk(part) if isinstance(node, logic)], path.name


def test_reading_the_configuration_imports_nothing_heavy():
    # Snakemake parses the workflow anew in every job.
    code = (
        "import sys, var_core.config.root, var_core.code_digest\n"
        "print(sorted({'torch', 'transformers', 'datasets', 'numpy', 'pyarrow', 'duckdb'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert run.stdout == "[]\n", run.stderr


def test_the_version_is_the_same_everywhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert project["version"] == var_core.__version__ == citation["version"]
    assert project["license"] == citation["license"]
    assert "Apache License" in (ROOT / "LICENSE").read_text(encoding="utf-8")


def test_the_rooms_are_named_in_the_order_of_the_data():
    assert var_core.__doc__
    named = [name for name in re.findall(r"``(\w+)``", var_core.__doc__) if name in ROOMS]
    assert named == list(ROOMS)
