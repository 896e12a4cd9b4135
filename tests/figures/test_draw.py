import json
import re
import shutil

import pytest
from docutils.core import publish_doctree

from simulated_evaluation import write_evaluation
from simulated_tuning import SimulatedTuning
from systems_to_draw import SimulatedSystems
from var_core.config.figures import FiguresConfig
from var_core.errors import VarError
from var_core.figures.draw import draw_figure
from var_core.figures.registry import OF_POLICY, OF_SYSTEMS, OF_TUNING
from var_core.parquet import read_provenance
from var_core.warehouse.files import RunFiles

COARSE = FiguresConfig(dpi=60)


def draw(run, name, folder, config=COARSE, files=None):
    draw_figure(name, files or run.files, run.verdicts, config, folder / f"{name}.png", "c0de")


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("name", ["loss_curve", "coactivation"])
def test_a_figure_is_saved_with_its_caption(run, name, tmp_path):
    draw(run, name, tmp_path)
    saved = contents(tmp_path)
    assert set(saved) == {f"{name}.{kind}" for kind in ("png", "svg", "pdf", "txt")}
    assert saved[f"{name}.png"].startswith(b"\x89PNG") and saved[f"{name}.pdf"].startswith(b"%PDF")
    assert b"<svg" in saved[f"{name}.svg"]
    assert saved[f"{name}.txt"].decode() == run.drawing(name).caption + "\n"


@pytest.mark.parametrize(("name", "formats"), [("frequency_entropy", ()), ("loss_curve", ("svg", "pdf"))])
def test_the_same_run_gives_the_same_bytes(run, name, formats, tmp_path):
    for folder in ("first", "second"):
        draw(run, name, tmp_path / folder, FiguresConfig(dpi=60, formats=formats))
    assert contents(tmp_path / "first") == contents(tmp_path / "second")


def test_another_run_gives_other_bytes(run, blind, tmp_path):
    for each in (run, blind):
        draw(each, "entropy_distribution", tmp_path / each.simulation.model, FiguresConfig(dpi=60, formats=()))
    first, second = (contents(tmp_path / each.simulation.model) for each in (run, blind))
    assert not {name for name in first if first[name] == second[name]}


def test_formats_and_resolution_are_those_of_the_settings(run, tmp_path):
    draw(run, "loss_curve", tmp_path, FiguresConfig(dpi=100, formats=()))
    saved = contents(tmp_path)
    assert set(saved) == {"loss_curve.png", "loss_curve.txt"}
    assert int.from_bytes(saved["loss_curve.png"][16:20], "big") == 335


def test_the_code_that_drew_it_is_in_the_files_and_no_date(run, tmp_path):
    draw(run, "loss_curve", tmp_path)
    for kind in ("png", "svg"):
        text = (tmp_path / f"loss_curve.{kind}").read_bytes()
        assert b"code c0de" in text and b"loss_curve of simulated/text" in text
    assert b"dc:date" not in (tmp_path / "loss_curve.svg").read_bytes()
    assert b"CreationDate" not in (tmp_path / "loss_curve.pdf").read_bytes()


@pytest.mark.parametrize("name", ["no_such_figure", "style", "../draw"])
def test_an_unknown_figure_is_one_line(run, name, tmp_path):
    with pytest.raises(VarError, match="no such figure"):
        draw(run, name, tmp_path)


def test_nothing_is_left_when_drawing_fails(blind, tmp_path):
    with pytest.raises(VarError, match="for models that the workflow trained"):
        draw(blind, "loss_curve", tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_training_record_that_is_missing_is_named(run, tmp_path):
    results = tmp_path / "results"
    shutil.copytree(run.results, results)
    (results / "models/simulated/training.json").unlink()
    with pytest.raises(VarError, match=r"training\.json: no such file"):
        draw(run, "loss_curve", tmp_path / "figures", files=RunFiles.in_results(results, "simulated", "text"))


@pytest.fixture(scope="module")
def with_policy(run, tmp_path_factory):
    """The files of the run, and of a policy's evaluation and tuning beside them."""
    results = tmp_path_factory.mktemp("with_policy") / "results"
    shutil.copytree(run.results, results)
    folder = results / "simulated/text"
    statistics = read_provenance(folder / "statistics/capture/layer_stats.parquet")
    write_evaluation(folder / "evaluation", statistics, run.simulation.domains)
    SimulatedTuning(layers=run.simulation.layers).write(folder / "tuning", statistics)
    return RunFiles.in_results(results, "simulated", "text")


@pytest.mark.parametrize("name", [*OF_POLICY, *OF_TUNING])
def test_figures_of_a_policy_and_its_study_are_drawn_from_its_files(run, with_policy, name, tmp_path):
    draw(run, name, tmp_path, files=with_policy)
    assert "not drawn" not in (tmp_path / f"{name}.txt").read_text()
    assert set(contents(tmp_path)) == {f"{name}.{kind}" for kind in ("png", "svg", "pdf", "txt")}


@pytest.fixture(scope="module")
def with_systems(run, tmp_path_factory):
    """The files of the run, and beside them what its routing is worth: of a model that was run, and of none."""
    found = {}
    for ran in (True, False):
        results = tmp_path_factory.mktemp("with_systems") / "results"
        shutil.copytree(run.results, results)
        folder = results / "simulated/text"
        simulation = SimulatedSystems(run.simulation.layers) if ran else SimulatedSystems(arms=(), shaped=False)
        simulation.write(folder / "systems", "simulated/text")
        found[ran] = RunFiles.in_results(results, "simulated", "text")
    return found


@pytest.mark.parametrize("name", OF_SYSTEMS)
def test_figures_of_what_routing_is_worth_are_drawn_from_its_files(run, with_systems, name, tmp_path):
    draw(run, name, tmp_path, files=with_systems[True])
    assert "not drawn" not in (tmp_path / f"{name}.txt").read_text()
    assert set(contents(tmp_path)) == {f"{name}.{kind}" for kind in ("png", "svg", "pdf", "txt")}


def test_intervals_of_hit_rates_are_of_the_confidence_that_they_were_made_with(run, with_systems, tmp_path):
    draw(run, "cache_hits", tmp_path, files=with_systems[True])
    assert "Bands are intervals of 90 %" in (tmp_path / "cache_hits.txt").read_text()


@pytest.mark.parametrize(("name", "said"), [
    ("breakdown", "not drawn, because no model was run, so nothing was timed"),
    ("cache_hits", "No model was run with offloaded experts"),
    ("break_even", "When experts are offloaded, this is not known"),
])  # fmt: skip
def test_what_was_not_measured_is_said(run, with_systems, name, said, tmp_path):
    draw(run, name, tmp_path, files=with_systems[False])
    assert said in (tmp_path / f"{name}.txt").read_text()


def test_the_margin_is_the_one_that_the_policy_was_evaluated_with(run, with_policy, tmp_path):
    draw(run, "policy_quality", tmp_path, files=with_policy)
    margin = read_provenance(with_policy.evaluation["evaluations"])["config"]["margin"]
    assert f"the margin is {margin:g} of the plain model's loss" in (tmp_path / "policy_quality.txt").read_text()


def test_without_what_they_show_figures_say_so(run, tmp_path):
    reasons = {
        "policy_ways": "no policy was evaluated",
        "tuning_front": "no policy was tuned",
        "breakdown": "nobody asked what its routing is worth",
        "break_even": "nobody asked what its routing is worth",
    }
    for name, reason in reasons.items():
        draw(run, name, tmp_path)
        assert f"not drawn, because {reason}" in (tmp_path / f"{name}.txt").read_text()


def test_verdicts_of_an_older_version_are_one_line(run, tmp_path):
    verdicts = json.loads(run.verdicts.read_text())
    verdicts["results"] = []
    (tmp_path / "verdicts.json").write_text(json.dumps(verdicts))
    with pytest.raises(VarError, match="run the hypotheses stage again"):
        draw_figure(
            "frequency_entropy",
            run.files,
            tmp_path / "verdicts.json",
            COARSE,
            tmp_path / "out/frequency_entropy.png",
            "",
        )
    assert not (tmp_path / "out").exists()


SOURCES = ["run", "blind", "wide", "evaluated", "smallest", "deep", "few_arms"]
SOURCES += ["tuned", "few_trials", "many_trials", "one_objective"]
SOURCES += ["worth", "replayed_only", "many_sizes", "one_device"]


@pytest.mark.parametrize("which", SOURCES)
def test_captions_are_plain_sentences_that_begin_with_the_question(which, request):
    """They are read as reStructuredText by the report, and nothing in them may be taken for markup."""
    each = request.getfixturevalue(which)
    for name in each.figures:
        caption = each.drawing(name).caption
        assert "." not in caption.split("?")[0] and caption.endswith(".")
        assert not {"nan", "None", "undefined"} & set(re.findall(r"\w+", caption)), name
        tree = publish_doctree(caption, settings_overrides={"report_level": 1, "halt_level": 2})
        assert [type(node).__name__ for node in tree.children] == ["paragraph"], name
        assert tree.astext() == caption, name
