"""The profiles for one machine and for a cloud, with their real plugins.

No request leaves this machine: the local executor makes none, and a dry run for Kubernetes asks no cluster but only the
storage, which is a real S3 server on loopback here.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.workflow

ROOT = Path(__file__).resolve().parents[2]
PROFILES = ("local", "kubernetes")


def profile(name: str) -> Path:
    return ROOT / "profiles" / name / "profile.yaml"


def snakemake(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "SNAKEMAKE_"))}
    return subprocess.run(
        [sys.executable, "-m", "snakemake", *arguments],
        cwd=folder,
        env=clean | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""} | environment,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=120,
    )


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The project's root, without results; what is not written is the project's own."""
    shutil.copytree(ROOT / "config", tmp_path / "config")
    for name in ("Snakefile", "rules", "workflow_scripts", "var_core", "profiles"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A real S3 server on loopback, as the environment that leads every process to it and nowhere else."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    log = tmp_path_factory.mktemp("storage") / "log"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with log.open("w") as stream, subprocess.Popen(command, stdout=stream, stderr=stream) as server:
        try:
            _wait_for(port, log)
            yield {
                "SNAKEMAKE_STORAGE_S3_ENDPOINT_URL": address,
                "AWS_ENDPOINT_URL_S3": address,
                "AWS_ENDPOINT_URL": address,
                "AWS_EC2_METADATA_DISABLED": "true",
                "AWS_ACCESS_KEY_ID": "dummy-id",
                "AWS_SECRET_ACCESS_KEY": "dummy-secret",
            }
        finally:
            server.terminate()


def _wait_for(port: int, log: Path) -> None:
    give_up = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            assert time.monotonic() < give_up, log.read_text()
            time.sleep(0.1)


def jobs(result: subprocess.CompletedProcess[str]) -> dict[str, int]:
    """Jobs by rule, as a dry run plans them."""
    text = result.stdout + result.stderr
    assert result.returncode == 0, text[-5000:]
    table = text.split("Job stats:")[-1].split("total")[0].splitlines()[3:]
    return {line.split()[0]: int(line.split()[1]) for line in table if line.strip()}


def test_a_dry_run_for_one_machine(project):
    planned = jobs(snakemake(project, "--dry-run", "--profile", "profiles/local"))
    assert (planned["capture_traced_shard"], planned["evaluate_controls"], planned["build_warehouse"]) == (13, 3, 1)


def test_a_dry_run_for_kubernetes_looks_for_everything_in_the_bucket(project, storage):
    result = snakemake(project, "--dry-run", "--profile", "profiles/kubernetes", **storage)
    planned = jobs(result)
    assert (planned["capture_traced_shard"], planned["evaluate_controls"], planned["build_warehouse"]) == (13, 3, 1)
    text = result.stdout + result.stderr
    assert "s3://my-bucket/var/results/var.duckdb (in storage)" in text
    assert "dummy-secret" not in text


def test_a_dry_run_for_kubernetes_sees_what_is_in_the_bucket(project, storage):
    import boto3

    client = boto3.client(
        "s3",
        endpoint_url=storage["AWS_ENDPOINT_URL"],
        region_name="us-east-1",
        aws_access_key_id="dummy-id",
        aws_secret_access_key="dummy-secret",
    )
    client.create_bucket(Bucket="filled")
    for name in ("documents.parquet", "manifest.json"):
        client.put_object(Bucket="filled", Key=f"var/results/corpora/python-stdlib/{name}", Body=b"x")
    prefix = ("--default-storage-prefix", "s3://filled/var", "--rerun-triggers", "mtime")
    planned = jobs(snakemake(project, "--dry-run", "--profile", "profiles/kubernetes", *prefix, **storage))
    assert "write_documents" not in planned and planned["train_demo_model"] == 1


def test_kubernetes_without_credentials_is_refused_before_anything_is_asked(project):
    result = snakemake(project, "--dry-run", "--profile", "profiles/kubernetes")
    assert result.returncode != 0
    assert "AWS_ACCESS_KEY_ID" in result.stdout + result.stderr


JOBS = """
rule all:
    input:
        expand("out/{n}", n=range(4)),

rule capture_shard:
    output:
        "out/{n}",
    script:
        "job.py"
"""
JOB = """
import os, time
from itertools import pairwise
from pathlib import Path
from var_core.gpus import take_gpus
taken = take_gpus(snakemake.resources.get("gpu", 0))
start = time.time()
time.sleep(2)
Path(snakemake.output[0]).write_text(f"{os.environ['CUDA_VISIBLE_DEVICES']} {len(taken)} {start} {time.time()}")
"""


def test_on_one_machine_each_job_that_runs_has_a_gpu_of_its_own(tmp_path):
    """Real jobs under the profile; the names of the GPUs are made up, since the hand-out is what is tested."""
    (tmp_path / "Snakefile").write_text(JOBS)
    (tmp_path / "job.py").write_text(JOB)
    gpus = [f"GPU-{tmp_path.name}-{os.getpid()}-{n}" for n in range(2)]
    result = snakemake(tmp_path, "--profile", str(profile("local").parent), CUDA_VISIBLE_DEVICES=",".join(gpus))
    assert result.returncode == 0, result.stdout + result.stderr
    spans: dict[str, list[tuple[float, float]]] = {gpu: [] for gpu in gpus}
    for path in (tmp_path / "out").iterdir():
        gpu, number, start, end = path.read_text().split()
        assert number == "1"
        spans[gpu].append((float(start), float(end)))
    for gpu in gpus:
        ordered = sorted(spans[gpu])
        assert ordered, f"{gpu} stood idle"
        assert all(one[1] <= next_one[0] for one, next_one in pairwise(ordered))
    both = [span for gpu in gpus for span in spans[gpu]]
    starts, ends = sorted(start for start, _ in both), sorted(end for _, end in both)
    assert starts[1] < ends[0], "two ran at the same time"


def test_without_a_gpu_the_same_profile_computes_on_the_cpu(tmp_path):
    (tmp_path / "Snakefile").write_text(JOBS)
    (tmp_path / "job.py").write_text(JOB.replace("time.sleep(2)", ""))
    result = snakemake(tmp_path, "--profile", str(profile("local").parent), "--cores", "1")
    assert result.returncode == 0, result.stdout + result.stderr
    assert [path.read_text().split()[0] for path in (tmp_path / "out").iterdir()] == ["0"] * 4, "none was taken"


@pytest.mark.parametrize("name", PROFILES)
def test_every_key_says_when_to_change_it(name):
    lines = profile(name).read_text(encoding="utf-8").splitlines()
    keys = [number for number, line in enumerate(lines) if re.match(r"[a-z-]+:", line)]
    assert keys
    assert [lines[number] for number in keys if not lines[number - 1].startswith("# ")] == []
    assert max(map(len, lines)) <= 120


@pytest.mark.parametrize("name", PROFILES)
def test_every_key_is_an_option_and_every_rule_is_there(name):
    values = yaml.safe_load(profile(name).read_text(encoding="utf-8"))
    known = snakemake(ROOT, "--help").stdout
    keys = [key for key in values if not key.startswith("__")]
    assert [key for key in keys if not re.search(rf"--{key}\b", known)] == []
    rules = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "rules").glob("*.smk"))
    named = [*values.get("set-resources", {}), *values.get("set-threads", {})]
    assert [rule for rule in named if not re.search(rf"\brule .*\b{rule}\b", rules)] == []


def test_what_was_never_run_on_a_real_service_says_so_first():
    assert "Not yet run" in profile("kubernetes").read_text(encoding="utf-8").splitlines()[0]
