"""A machine without Slurm: what passes, and what is broken for real and has to be found."""

import os
import subprocess

import pytest

from capture_processes import ROOT
from moe_models import build_model

NAMES = [
    "model tiny", "disk space", "scheduler", "partitions",
    "job", "Python", "shared files", "locks", "heartbeat", "GPU",
]  # fmt: skip
SLURM = {"executor": "slurm", "default-resources": {"slurm_partition": "cpu"}}


def test_a_sound_machine_passes_and_is_left_as_it_was(preflight, tmp_path):
    status, checks, _ = preflight("--profile", str(ROOT / "profiles" / "local"))
    assert status == 0 and list(checks) == NAMES
    outcomes = {name: outcome for name, (outcome, _) in checks.items()}
    assert [name for name in NAMES if outcomes[name] == "not checked"] == ["scheduler", "partitions", "GPU"]
    assert "executor local, not to Slurm" in checks["scheduler"][1]
    assert {path.name for path in tmp_path.iterdir()} == {"config.yaml"}


def test_a_gpu_that_is_named_but_not_there_is_found(preflight):
    """CUDA_VISIBLE_DEVICES names one that no machine has."""
    _, checks, _ = preflight("--profile", str(ROOT / "profiles" / "local"), CUDA_VISIBLE_DEVICES="GPU-0badcafe")
    outcome, said = checks["GPU"]
    assert outcome == "fail" and "1 asked for, torch sees 0" in said and "CUDA_VISIBLE_DEVICES=GPU-0badcafe" in said


def test_the_job_starts_as_the_site_s_jobs_do(preflight, tmp_path):
    local = {"executor": "local", "set-resources": {"capture_shard": {"gpu": 1}}}
    (tmp_path / "site.sh").write_text("export CUDA_VISIBLE_DEVICES=GPU-from-the-site\n")
    _, checks, _ = preflight(profile=local, CUDA_VISIBLE_DEVICES="GPU-0badcafe")
    assert "CUDA_VISIBLE_DEVICES=GPU-from-the-site" in checks["GPU"][1]
    (tmp_path / "site.sh").write_text("echo 'no module cuda' >&2; exit 3\n")
    status, checks, printed = preflight(profile=local)
    assert status == 1 and "no module cuda" in printed


def test_an_absent_scheduler_is_found_and_nothing_is_submitted(preflight, tmp_path):
    (tmp_path / "empty").mkdir()
    status, checks, _ = preflight(profile=SLURM, PATH=str(tmp_path / "empty"))
    assert status == 1
    assert checks["scheduler"][0] == "fail" and "sinfo is not on PATH; work on a login node" in checks["scheduler"][1]
    assert checks["partitions"][0] == checks["finished jobs"][0] == "not checked"
    assert "job" not in checks


def test_a_scheduler_that_does_not_answer_is_found(preflight, tmp_path):
    """A real client without a controller says much the same; here is a program that fails as it does."""
    program = tmp_path / "bin" / "sinfo"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho 'slurm_load_partitions: Unable to contact slurm controller' >&2\nexit 1\n")
    program.chmod(0o755)
    _, checks, _ = preflight(profile=SLURM, PATH=str(program.parent))
    assert "Unable to contact slurm controller" in checks["scheduler"][1]


@pytest.fixture
def model(tmp_path, save_model):
    save_model(build_model("mixtral"), tmp_path / "model")
    return tmp_path / "model"


def folder_config(model):
    corpora = {"topics": {"source": "python-stdlib", "max_tokens": {"capture": 10_000, "heldout": 5_000}}}
    return {"models": {"tiny": {"source": "folder", "path": str(model)}}, "corpora": corpora}


def quick(preflight, **more):
    """Only what needs no job: Slurm is asked for and is not there."""
    return preflight(profile=SLURM, PATH="/nonexistent", **more)[1]


def test_a_whole_model_passes(preflight, model):
    checks = quick(preflight, config=folder_config(model))
    assert checks["model tiny"] == ("pass", f"{model} is whole")
    assert checks["disk space"][0] == "pass"


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("cut", "not a whole safetensors file"),
        ("missing", "1 of 2 weight files that model.safetensors.index.json names are missing (first b.safetensors)"),
        ("tokenizer", "holds no tokenizer"),
        ("folder", "no such folder"),
    ],
)
def test_a_damaged_model_is_found(preflight, model, damage, said):
    weights = model / "model.safetensors"
    if damage == "cut":
        os.truncate(weights, weights.stat().st_size - 1)
    elif damage == "missing":
        index = '{"weight_map": {"x": "model.safetensors", "y": "b.safetensors"}}'
        (model / "model.safetensors.index.json").write_text(index)
    elif damage == "tokenizer":
        (model / "tokenizer.json").unlink()
    else:
        model.rename(model.with_name("elsewhere"))
    outcome, line = quick(preflight, config=folder_config(model))["model tiny"]
    assert outcome == "fail" and said in line


def hub_config():
    return {"models": {"tiny": {"source": "hub", "repo": "nobody/nothing", "revision": "0" * 40}}}


def test_a_model_that_is_nowhere_is_found(preflight, tmp_path):
    checks = quick(preflight, config=hub_config(), HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path / "cache"))
    outcome, said = checks["model tiny"]
    assert outcome == "fail" and "nobody/nothing at 000000000000 is not in the cache, and HF_HUB_OFFLINE is set" in said
    assert checks["disk space"][0] == "not checked"


def test_a_hub_that_cannot_be_reached_is_found(preflight, tmp_path):
    """The discard port of this machine, where nobody listens."""
    environment = {"HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "cache"), "HF_ENDPOINT": "http://127.0.0.1:9"}
    outcome, said = quick(preflight, config=hub_config(), **environment)["model tiny"]
    assert outcome == "fail" and "cannot be had" in said and "fetch it elsewhere" in said


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of half a megabyte."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "none", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting takes rights that this user has not")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_is_found(preflight, small_disk):
    _, checks, _ = preflight("--results", str(small_disk / "results"), profile=SLURM, PATH="/nonexistent")
    outcome, said = checks["disk space"]
    assert outcome == "fail" and "0.5 MB are free" in said and "free space" in said


def test_a_disk_without_any_room_is_found(preflight, small_disk):
    with (small_disk / "filler").open("wb") as stream, pytest.raises(OSError):
        while True:
            os.write(stream.fileno(), bytes(4096))
    checks = preflight("--results", str(small_disk / "results"))[1]
    assert checks["disk space"][0] == "fail"
    outcome, said = checks["shared files"]
    assert outcome == "fail" and "cannot be written (No space left on device)" in said


def test_what_will_be_written_is_compared_with_the_room(preflight):
    many = {"topics": {"source": "python-stdlib", "max_tokens": {"capture": 10**13, "heldout": 10**13}}}
    large = {"tiny": {"source": "demo", "corpus": "topics", "layers": 100_000, "experts": 100, "vocabulary": 10**6}}
    outcome, said = quick(preflight, config={"corpora": many, "models": large})["disk space"]
    assert outcome == "fail" and "may be written" in said


def test_a_folder_that_cannot_be_written_is_found(preflight, tmp_path):
    (tmp_path / "file").touch()
    outcome, said = preflight("--results", "file/results")[1]["shared files"]
    assert outcome == "fail" and said.startswith("file/results: cannot be written (Not a directory)")


def test_a_missing_profile_is_one_line(preflight):
    status, checks, printed = preflight("--profile", "nowhere")
    assert (status, checks) == (1, {})
    assert printed == "error: nowhere: no profile.yaml there; the project's profiles are in profiles/\n"


def test_an_executor_that_cannot_be_tried_says_so(preflight):
    status, checks, _ = preflight("--profile", str(ROOT / "profiles" / "kubernetes"))
    assert status == 0
    assert checks["job"] == ("not checked", "jobs go to the executor kubernetes, which the preflight cannot use")


def test_a_python_without_the_project_is_found(preflight, tmp_path):
    """As on a node whose environment lacks a package: a broken one comes first on the path."""
    (tmp_path / "broken" / "transformers").mkdir(parents=True)
    (tmp_path / "broken" / "transformers" / "__init__.py").write_text("raise ImportError('no transformers here')")
    _, checks, _ = preflight(PYTHONPATH=f"{tmp_path / 'broken'}:{ROOT}")
    outcome, said = checks["Python"]
    assert outcome == "fail" and "no transformers here; install the project in that environment" in said
