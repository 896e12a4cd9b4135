"""What is read from a profile."""

from pathlib import Path

import pytest
import yaml

from var_core.errors import VarError
from var_core.preflight.profile import Profile, read_profile

ROOT = Path(__file__).resolve().parents[2]


def profile(text: str) -> Profile:
    return Profile(Path("p.yaml"), yaml.safe_load(text))


@pytest.mark.parametrize(
    ("text", "slurm"),
    [
        ("executor: slurm", True),
        ("executor: local", False),
        ("jobs: 3", False),
        ("{executor: cluster-generic, cluster-generic-submit-cmd: sbatch --parsable}", True),
        ("{executor: cluster-generic, default-resources: {slurm_partition: a}}", True),
        ("{executor: cluster-generic, cluster-generic-submit-cmd: qsub}", False),
    ],
)
def test_who_runs_the_jobs(text, slurm):
    assert profile(text).uses_slurm is slurm


@pytest.mark.parametrize(
    ("resources", "gpus"),
    [
        ("{}", 0), ("{gpu: 2}", 2), ("{gpu: '?GPUS'}", 0), ("{gres: 'gpu:3'}", 3), ("{gres: \"'gpu:a100:2'\"}", 2),
        ("{gres: gpu}", 1), ("{gres: none}", 0), ("{slurm_extra: \"'--gres=gpu:1'\"}", 1),
        ("{slurm_extra: '--gpus=4'}", 4),
    ],
)  # fmt: skip
def test_gpus_are_asked_for_in_several_ways(resources, gpus):
    assert profile(f"set-resources: {{capture_shard: {resources}}}").gpus() == gpus
    assert profile(f"default-resources: {resources}").gpus() == gpus


def test_the_request_is_that_of_a_capture_job():
    text = """
        default-resources: {slurm_partition: "'cpu'", slurm_partition_gpu: "'gpu'", slurm_account: "'me'", mem_mb: 2000 * attempt}
        set-resources: {capture_shard: {gpu: 1, gpu_model: "'a100'", slurm_extra: "'--exclude=n1 --nice'", qos: x if y else z}}
    """  # noqa: E501
    assert profile(text).slurm_request() == [
        "--partition=gpu", "--account=me", "--gres=gpu:a100:1", "--exclude=n1", "--nice",
    ]  # fmt: skip
    assert profile("default-resources: [slurm_partition=cpu, gres=none]").slurm_request() == ["--partition=cpu"]


def test_partitions_come_with_the_key_that_names_them():
    text = """
        default-resources: {slurm_partition: "a,b"}
        set-resources: {merge: {slurm_partition: "'c'"}, other: {slurm_partition: "a if attempt > 1 else b"}}
    """
    assert profile(text).partitions() == {
        "a": "default-resources: slurm_partition",
        "b": "default-resources: slurm_partition",
        "c": "set-resources: merge: slurm_partition",
    }


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "profiles").iterdir()))
def test_the_project_s_own_profiles_are_read(name):
    read = read_profile(ROOT / "profiles" / name)
    assert read.values.get("executor", "local") == read.executor
    assert read.uses_slurm is name.startswith("slurm")


@pytest.mark.parametrize("text", ["a: [", "- 1", ""])
def test_what_is_no_profile_is_one_line(tmp_path, text):
    (tmp_path / "profile.yaml").write_text(text)
    with pytest.raises(VarError, match=r"profile\.yaml") as caught:
        read_profile(tmp_path)
    assert "\n" not in str(caught.value)
