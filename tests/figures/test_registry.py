import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from var_core.code_digest import import_closure
from var_core.figures.registry import (
    FIGURES,
    OF_POLICY,
    OF_PROFILE,
    OF_SYSTEMS,
    OF_TRAINING,
    OF_TUNING,
    figures_of,
    label,
)

ROOT = Path(__file__).parents[2]


def closure(path: str) -> set[str]:
    return set(import_closure(path, ROOT))


def test_only_models_trained_here_have_a_loss_curve():
    without = figures_of(trained=False, policy=True, tuned=True, systems=True)
    assert set(FIGURES) - set(without) == set(OF_TRAINING) == {"loss_curve"}
    assert figures_of(trained=True, policy=True, tuned=True, systems=True) == FIGURES


EVERYTHING = {"trained": True, "policy": True, "tuned": True, "systems": True}


@pytest.mark.parametrize(
    ("missing", "needs", "names"),
    [
        ("policy", {"policy", "profile"}, OF_POLICY + OF_PROFILE),
        ("tuned", {"tuning"}, OF_TUNING),
        ("systems", {"systems", "profile"}, OF_SYSTEMS),
    ],
)
def test_only_runs_with_what_a_figure_needs_have_it(missing, needs, names):
    without = figures_of(**EVERYTHING | {missing: False})
    needing = {
        name for name in FIGURES if needs & {*getattr(importlib.import_module(f"var_core.figures.{name}"), "NEEDS", ())}
    }
    assert set(FIGURES) - set(without) == set(names) == needing
    untrained = figures_of(**EVERYTHING | {missing: False, "trained": False})
    assert untrained == tuple(name for name in without if name != "loss_curve")


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


@pytest.mark.parametrize("name", FIGURES)
def test_an_edit_of_what_policies_are_evaluated_with_draws_only_their_figures_again(name):
    used = closure("workflow_scripts/draw_figure.py") | closure(f"var_core/figures/{name}.py")
    about_policies = {"var_core.config.policy", "var_core.figures.policies"}
    # Settings of a search are of policies, too.
    assert (
        used & about_policies == about_policies if name in OF_POLICY else name in OF_TUNING or not used & about_policies
    )


@pytest.mark.parametrize("name", FIGURES)
def test_an_edit_of_how_policies_are_tuned_draws_only_those_figures_again(name):
    used = closure("workflow_scripts/draw_figure.py") | closure(f"var_core/figures/{name}.py")
    about_tuning = {"var_core.config.tuning", "var_core.figures.tunings"}
    assert bool(used & about_tuning) == (name in OF_TUNING)


@pytest.mark.parametrize("name", FIGURES)
def test_an_edit_of_what_routing_is_worth_draws_only_those_figures_again(name):
    used = closure("workflow_scripts/draw_figure.py") | closure(f"var_core/figures/{name}.py")
    about_systems = {each for each in used if each.startswith("var_core.systems.")}
    assert bool(about_systems) == (name in OF_SYSTEMS)
    assert not about_systems & {"var_core.systems.worth", "var_core.systems.simulate", "var_core.systems.profiling"}
