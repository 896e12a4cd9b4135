import subprocess
import sys
from pathlib import Path

import pytest

from var_core.code_digest import import_closure
from var_core.figures.registry import FIGURES, OF_TRAINING, figures_of, label

ROOT = Path(__file__).parents[2]


def closure(path: str) -> set[str]:
    return set(import_closure(path, ROOT))


def test_only_models_trained_here_have_a_loss_curve():
    assert set(figures_of(trained=True)) - set(figures_of(trained=False)) == set(OF_TRAINING) == {"loss_curve"}
    assert figures_of(trained=True) == FIGURES


def test_names_are_written_for_reading():
    assert label("fast_path_coverage") == "Fast path coverage"


def test_the_registry_imports_nothing():
    code = "import sys, var_core.figures.registry; print({'numpy', 'matplotlib'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert run.stdout == "set()\n", run.stderr


def test_an_edit_of_one_figure_draws_no_other_again():
    modules = {f"var_core.figures.{name}" for name in FIGURES}
    assert not closure("workflow_scripts/draw_figure.py") & modules
    for name in FIGURES:
        assert not closure(f"var_core/figures/{name}.py") & modules


@pytest.mark.parametrize("name", FIGURES)
def test_an_edit_of_the_style_draws_all_again(name):
    shared = closure("workflow_scripts/draw_figure.py") | closure(f"var_core/figures/{name}.py")
    assert {"var_core.figures.style", "var_core.figures.sources", "var_core.warehouse.run"} <= shared
