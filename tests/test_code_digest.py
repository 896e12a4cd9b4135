import shutil
from pathlib import Path

import pytest

from var_core.code_digest import code_digest, import_closure

ROOT = Path(__file__).parents[1]

FILES = {
    "scripts/stage.py": '"""Script."""\nfrom var_core.room.job import run\n\nrun(1)\n',
    "var_core/__init__.py": '"""Package."""\n__version__ = "1"\n',
    "var_core/files.py": "def write(x):\n    return x\n",
    "var_core/unused.py": "VALUE = 1\n",
    "var_core/types.py": "class Shape:\n    pass\n",
    "var_core/room/__init__.py": '"""Room."""\n',
    "var_core/room/job.py": (
        '"""Job."""\n'
        "from typing import TYPE_CHECKING\n"
        "from var_core.room import tools\n"
        "if TYPE_CHECKING:\n"
        "    from var_core.types import Shape\n\n\n"
        "class Settings:\n"
        '    """Settings."""\n'
        "    size: int = 1\n"
        '    """size of it"""\n\n\n'
        "def run(x):\n"
        '    """Run."""\n'
        "    import var_core.late\n"
        "    return tools.twice(x) # why\n"
    ),
    "var_core/room/tools.py": "from var_core.files import write\n\n\ndef twice(x):\n    return write(2 * x)\n",
    "var_core/room/views.sql": "SELECT 1;\n",
    "var_core/late/__init__.py": "LATE = 1\n",
    "var_core/other/__init__.py": "",
    "var_core/other/views.sql": "SELECT 2;\n",
}
CLOSURE = ["var_core.files", "var_core.late", "var_core.room", "var_core.room.job", "var_core.room.tools"]


@pytest.fixture
def project(tmp_path):
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def edited(project: Path, name: str, old: str, new: str) -> tuple[str, str]:
    """Digests before and after an edit of one file."""
    before = code_digest("scripts/stage.py", project)
    path = project / name
    text = path.read_text() if path.exists() else ""
    assert old in text, "the edit must change something"
    path.write_text(text.replace(old, new, 1))
    return before, code_digest("scripts/stage.py", project)


def test_the_closure_is_what_the_script_imports_directly_or_through_others(project):
    assert import_closure("scripts/stage.py", project) == CLOSURE


def test_a_name_imported_from_a_package_may_be_a_module(project):
    # `from var_core.room import tools` is a module, `from var_core.files import write` a function in one.
    closure = import_closure("scripts/stage.py", project)
    assert "var_core.room.tools" in closure
    assert "var_core.files.write" not in closure


def test_a_plain_import_of_a_module_brings_its_package(project):
    (project / "scripts/stage.py").write_text("import var_core.room.tools as t\n")
    assert import_closure("scripts/stage.py", project) == ["var_core.files", "var_core.room", "var_core.room.tools"]


def test_modules_that_import_each_other_are_found_once(project):
    (project / "var_core/files.py").write_text("import var_core.room.job\n")
    assert import_closure("scripts/stage.py", project) == CLOSURE


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("var_core/room/job.py", "# why", "# because"),
        ("var_core/room/job.py", '"""Job."""', '"""Job, said otherwise."""'),
        ("var_core/room/job.py", '    """Run."""\n', ""),
        ("var_core/room/job.py", '"""size of it"""', '"""its size"""'),
        ("var_core/room/job.py", "\n\n\nclass", "\n\n\n\n\nclass"),
        ("var_core/room/tools.py", "write(2 * x)", "write(\n        2 * x,\n    )"),
        ("var_core/room/tools.py", "(2 * x)", "((2 * x))"),
        ("scripts/stage.py", '"""Script."""', '"""The script."""'),
        ("var_core/__init__.py", '"1"', '"2"'),
        ("var_core/unused.py", "1", "2"),
        ("var_core/types.py", "pass", "area = 1"),
        ("var_core/room/job.py", "import Shape", "import Shape, Size"),
        ("var_core/other/views.sql", "2", "3"),
        ("var_core/new.py", "", "VALUE = 1\n"),
    ],
)
def test_what_does_not_run_reruns_nothing(project, name, old, new):
    before, after = edited(project, name, old, new)
    assert before == after


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("scripts/stage.py", "run(1)", "run(2)"),
        ("var_core/room/job.py", "size: int = 1", "size: int = 2"),
        ("var_core/room/job.py", "size: int", "size: float"),
        ("var_core/room/tools.py", "2 * x", "3 * x"),
        ("var_core/files.py", "return x", 'return "x"'),
        ("var_core/late/__init__.py", "1", "2"),
        ("var_core/room/__init__.py", '"""Room."""', "ROOM = 1"),
        ("var_core/room/views.sql", "1", "3"),
        ("var_core/room/more.sql", "", "SELECT 3;\n"),
    ],
)
def test_what_runs_reruns_the_stage(project, name, old, new):
    before, after = edited(project, name, old, new)
    assert before != after


def test_code_that_moves_to_the_next_module_counts(project):
    before = code_digest("scripts/stage.py", project)
    (project / "var_core/late/__init__.py").write_text("")
    (project / "var_core/room/__init__.py").write_text("LATE = 1\n")
    assert code_digest("scripts/stage.py", project) != before


def test_sql_files_that_swap_their_content_count(project):
    (project / "var_core/room/more.sql").write_text("SELECT 3;\n")
    before = code_digest("scripts/stage.py", project)
    (project / "var_core/room/more.sql").write_text("SELECT 1;\n")
    (project / "var_core/room/views.sql").write_text("SELECT 3;\n")
    assert code_digest("scripts/stage.py", project) != before


def test_the_place_of_the_project_does_not_count(project, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "clone"
    shutil.copytree(project, elsewhere)
    assert code_digest("scripts/stage.py", elsewhere) == code_digest("scripts/stage.py", project)
    assert code_digest(project / "scripts/stage.py", project) == code_digest("scripts/stage.py", project)


def test_a_script_that_is_not_there(project):
    with pytest.raises(FileNotFoundError):
        code_digest("scripts/none.py", project)


@pytest.mark.parametrize("script", sorted((ROOT / "workflow_scripts").glob("*.py")), ids=lambda path: path.stem)
def test_the_real_stages_have_a_closure_without_the_version(script):
    closure = import_closure(script)
    assert "var_core.job" in closure
    assert "var_core" not in closure
    # The settings of all stages together would make every stage depend on the settings of every other.
    assert "var_core.config.root" not in closure
