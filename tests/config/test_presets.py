"""Every preset is valid by itself and over the default, pinned, and gives a complete DAG."""

import json
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml
from snakemake.utils import update_config

from var_core.config.corpus import HubCorpus, TraceCorpus
from var_core.config.models import HubModel
from var_core.config.root import load_config, parse_config

ROOT = Path(__file__).parents[2]
PRESETS = sorted((ROOT / "config/presets").glob("*.yaml"))
SCHEMA = json.loads((ROOT / "config/schema.json").read_text(encoding="utf-8"))

# From the models' own configurations: experts, experts a token, MoE layers.
SHAPES = {
    "mistralai/Mixtral-8x7B-v0.1": (8, 2, 32),
    "allenai/OLMoE-1B-7B-0924": (64, 8, 16),
    "Qwen/Qwen3-30B-A3B": (128, 8, 48),
}

every_preset = pytest.mark.parametrize("preset", PRESETS, ids=[path.stem for path in PRESETS])


def test_there_are_presets_for_the_usual_models():
    repos = {
        model.repo for path in PRESETS for model in load_config(path).models.values() if isinstance(model, HubModel)
    }
    assert repos == set(SHAPES)


@every_preset
def test_a_preset_is_valid_by_itself(preset):
    config = load_config(preset)
    jsonschema.validate(yaml.safe_load(preset.read_text(encoding="utf-8")), SCHEMA)
    assert {run.model for run in config.runs} == set(config.models), "a model that no run uses"
    assert {run.corpus for run in config.runs} == set(config.corpora), "a corpus that no run uses"


@every_preset
def test_a_preset_over_the_default_gives_the_same_runs(preset):
    values = yaml.safe_load((ROOT / "config/config.yaml").read_text(encoding="utf-8"))
    update_config(values, yaml.safe_load(preset.read_text(encoding="utf-8")))
    together, alone = parse_config(values, "both"), load_config(preset)
    assert together.runs == alone.runs
    for run in alone.runs:
        assert together.models[run.model] == alone.models[run.model]
        assert together.corpora[run.corpus] == alone.corpora[run.corpus]
    assert (together.sequences, together.capture) == (alone.sequences, alone.capture)


@every_preset
def test_a_preset_says_how_it_is_run_and_how_its_revisions_are_renewed(preset):
    head = preset.read_text(encoding="utf-8").split("\nruns:")[0]
    assert f"snakemake --configfile config/presets/{preset.name}" in head
    if "revision:" in preset.read_text(encoding="utf-8"):
        assert "git ls-remote https://huggingface.co/" in head


@every_preset
def test_the_models_of_a_preset_are_checked_against_their_shape(preset):
    for model in load_config(preset).models.values():
        if isinstance(model, HubModel):
            assert (model.expect.experts, model.expect.top_k, model.expect.layers) == SHAPES[model.repo]
            assert model.dtype == "bfloat16"
            assert model.device_map == "auto"


def test_a_repository_has_the_same_commit_everywhere():
    commits: dict[str, set[str]] = {}
    for path in PRESETS:
        config = load_config(path)
        for member in [*config.models.values(), *config.corpora.values()]:
            if isinstance(member, HubModel | HubCorpus):
                name = member.repo if isinstance(member, HubModel) else member.dataset
                commits.setdefault(name, set()).add(member.revision)
    assert commits
    assert all(len(revisions) == 1 for revisions in commits.values()), commits


@pytest.mark.workflow
@every_preset
def test_a_dry_run_plans_every_shard_of_every_run(preset):
    config = load_config(preset)
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--cores", "1", "--configfile", str(preset)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    output = run.stdout + run.stderr
    assert run.returncode == 0, output[-2000:]
    jobs = {name: int(count) for name, count in re.findall(r"^(\w+) +(\d+)$", output, flags=re.MULTILINE)}
    shards = config.capture.shards
    assert jobs["fetch_model"] == len(config.models)
    recorded = sum(isinstance(config.corpora[run.corpus], TraceCorpus) for run in config.runs)
    captured = len(config.runs) - recorded
    assert jobs.get("import_trace", 0) == recorded
    assert jobs.get("write_documents", 0) == len(config.corpora) - recorded
    assert jobs.get("pack_sequences", 0) == captured
    capture_jobs = jobs.get("capture_shard", 0) + jobs.get("capture_traced_shard", 0)
    assert capture_jobs == captured * sum(shards.model_dump().values())
    assert jobs["test_hypotheses"] == len(config.runs)
    assert "train_demo_model" not in jobs
