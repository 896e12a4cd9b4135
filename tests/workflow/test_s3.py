"""The DAG with its results in S3: a real server on loopback, one that fails, and keys that it refuses."""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path
from urllib.parse import urlsplit

import duckdb
import pyarrow.parquet as pq
import pytest
import yaml

from s3_server import CLOSED, S3, Request, s3_servers
from workflow_runs.project import SMALL

pytestmark = pytest.mark.workflow

ROOT = Path(__file__).resolve().parents[2]


class Project:
    """The project in a folder of its own, which keeps results in S3 where it is told of it."""

    def __init__(self, folder: Path, s3: S3 | None = None) -> None:
        self.folder, self.s3 = folder, s3
        folder.mkdir(exist_ok=True)
        # Links, for compiled loops are cached beside the code and need not be compiled for every folder.
        for name in ("Snakefile", "rules", "workflow_scripts", "var_core", "config"):
            (folder / name).symlink_to(ROOT / name)
        (folder / "small.yaml").write_text(yaml.safe_dump(SMALL | {"policy": {"enabled": False}}))

    @property
    def prefix(self) -> str:
        return self.folder.name

    def snakemake(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "snakemake", "--cores", "2", "--configfile", "small.yaml"]
        if self.s3:
            prefix = f"s3://{self.s3.bucket}/{self.prefix}"
            command += ["--default-storage-provider", "s3", "--default-storage-prefix", prefix]
        own = {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", **environment}
        return subprocess.run(
            [*command, *arguments],
            cwd=self.folder,
            env=self.s3.environment(**own) if self.s3 else os.environ | own,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )


def ran(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-8000:]
    return result.stdout + result.stderr


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    with s3_servers(tmp_path_factory.mktemp("s3")) as servers:
        yield servers


def results(folder: Path) -> dict[str, bytes]:
    """Every file of the results that depends on inputs alone."""
    measured = ("logs/", "benchmarks/")
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    # The state of capture jobs stays where they run.
    kept = {name: path for name, path in files.items() if "/.state/" not in name}
    return {name: path.read_bytes() for name, path in kept.items() if not name.startswith(measured)}


def containing(secret: str, *folders: Path) -> list[Path]:
    """Files in which a secret can be read."""
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert files
    return [path for path in files if secret.encode() in path.read_bytes()]


def costs(requests: list[Request]) -> str:
    """Requests and bytes by the folder of results that they are about."""
    rows: dict[str, Counter[str]] = {}
    for request in requests:
        path = urlsplit(request.path).path.split("/results/")[-1].split("/")
        kind = path[0] if path[0] in ("corpora", "models", "logs", "benchmarks", "var.duckdb") else "".join(path[2:3])
        row = rows.setdefault(kind or "whole bucket", Counter())
        row[request.method] += 1
        row["received"] += request.received
        row["sent"] += request.sent
    columns = ("HEAD", "GET", "PUT", "DELETE", "received", "sent")
    lines = [("", *columns), *((kind, *(str(rows[kind][name]) for name in columns)) for kind in sorted(rows))]
    return "\n".join("".join(cell.rjust(14) for cell in line) for line in lines)


def test_nothing_but_loopback_can_be_reached(s3):
    ask = "import boto3; boto3.client('s3').list_buckets()"
    environment = s3.environment(AWS_IGNORE_CONFIGURED_ENDPOINT_URLS="true", AWS_MAX_ATTEMPTS="1")
    result = subprocess.run([sys.executable, "-c", ask], env=environment, capture_output=True, text=True)
    assert result.returncode != 0
    assert f'Failed to connect to proxy URL: "{CLOSED}"' in result.stderr


def test_statistics_made_in_s3_are_those_of_a_folder_and_no_log_has_the_secret(s3, finished, tmp_path):
    project = Project(tmp_path / "stored", s3)
    said = ran(project.snakemake("--", "statistics"))
    print(costs(s3.front.requests))
    s3.fetch(project.prefix, tmp_path / "fetched")
    fetched = results(tmp_path / "fetched/results")
    assert sum(name.startswith("tiny/topics/statistics/") for name in fetched) == 6
    assert fetched == {
        name: content for name, content in results(finished.folder / "results").items() if name in fetched
    }
    assert not (project.folder / "results").exists()
    assert all(request.path.startswith(f"/{s3.bucket}") for request in s3.front.requests)
    assert s3.secret not in said
    assert not containing(s3.secret, tmp_path, s3.logs)


@pytest.mark.parametrize("kind", ["wrong secret", "unknown key", "none"])
def test_keys_that_are_wrong_are_one_line_without_the_secret(s3, tmp_path, kind):
    secret = "Wr0ngS3cretThatNobodyMayRead"
    wrong, reason = {
        "wrong secret": ({"AWS_SECRET_ACCESS_KEY": secret}, "SignatureDoesNotMatch"),
        "unknown key": (
            {"SNAKEMAKE_STORAGE_S3_ACCESS_KEY": "UNKNOWN", "SNAKEMAKE_STORAGE_S3_SECRET_KEY": secret},
            "InvalidAccessKeyId",
        ),
        "none": ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "Unable to locate credentials"),
    }[kind]
    project = Project(tmp_path / "refused", s3)
    result = project.snakemake("--verbose", "--", "statistics", **wrong)
    said = result.stdout + result.stderr
    assert result.returncode != 0
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, said
    assert reason in errors[0] and "AWS_SECRET_ACCESS_KEY" in errors[0]
    assert "Traceback" not in said
    assert secret not in said
    assert not containing(secret, tmp_path, s3.logs)


def test_the_profile_plans_the_run_with_a_bucket_of_ones_own(s3, tmp_path):
    """With the real plugin; that of Kubernetes is tested with the other profiles."""
    project = Project(tmp_path / "s3", s3)
    said = ran(project.snakemake("--profile", str(ROOT / "profiles" / "s3"), "--dry-run", "--", "statistics"))
    assert f"s3://{s3.bucket}/s3/results/tiny/topics/statistics/capture/layer_stats.parquet" in said


def test_text_of_ones_own_is_read_from_the_bucket(s3, tmp_path):
    texts = {name: f"{name} " * 200 for name in "abcdefghijklmnopqrst"}
    for name, text in texts.items():
        s3.client().put_object(Bucket=s3.bucket, Key=f"texts/{name}.txt", Body=text.encode())
    project = Project(tmp_path / "own", s3)
    addresses = [f"s3://{s3.bucket}/texts/{name}.txt" for name in texts]
    own = SMALL["corpora"]["topics"] | {"source": "files", "format": "text", "domains": {"prose": addresses}}
    own["splits"] = {"train": 0.0, "capture": 0.3, "calibration": 0.2, "tuning": 0.2, "heldout": 0.3}
    (project.folder / "own.yaml").write_text(yaml.safe_dump({"corpora": {"mine": own}}))
    target = "results/corpora/mine/documents.parquet"
    ran(project.snakemake("--configfile", "small.yaml", "own.yaml", "--", target))
    s3.fetch(project.prefix, tmp_path / "fetched")
    found = pq.read_table(tmp_path / "fetched" / target)
    assert sorted(found["text"].to_pylist()) == sorted(texts.values())
    s3.client().put_object(Bucket=s3.bucket, Key="texts/a.txt", Body=b"another text " * 100)
    assert "write_documents" in ran(
        project.snakemake("--configfile", "small.yaml", "own.yaml", "--dry-run", "--", target)
    )


@pytest.mark.slow
def test_a_server_that_fails_every_tenth_request_changes_nothing(s3, finished, tmp_path, monkeypatch):
    project = Project(tmp_path / "flaky", s3)
    monkeypatch.setattr(s3.front, "fail_every", 10)
    before = len(s3.front.requests)
    ran(project.snakemake())
    requests = s3.front.requests[before:]
    failed = [request for request in requests if request.status in (0, 500, 503)]
    print(costs(requests), f"{len(failed)} of {len(requests)} requests failed", sep="\n")
    assert len(failed) >= len(requests) // 10 > 100
    assert {request.method for request in failed} >= {"HEAD", "GET", "PUT"}
    assert "Nothing to be done" in ran(project.snakemake("--dry-run"))
    s3.fetch(project.prefix, tmp_path / "fetched")
    fetched, made = results(tmp_path / "fetched/results"), results(finished.folder / "results")
    own = {"models/tiny/generation_config.json"}  # not declared, since nothing reads it
    assert {name for name in made if "/.state/" not in name} - fetched.keys() == own
    assert [name for name in fetched if fetched[name] != made[name]] == ["var.duckdb"]
    assert tables(tmp_path / "fetched") == tables(finished.folder)


def tables(folder: Path) -> dict[str, list[tuple]]:
    """All rows of a database in their order, those in Parquet files included: its bytes are not the same each time."""
    with chdir(folder), duckdb.connect("results/var.duckdb", read_only=True, config={"threads": 1}) as database:
        names = [name for (name,) in database.execute("SELECT table_name FROM duckdb_tables()").fetchall()]
        names += ["traces", "shard_token_stats", "shard_expert_counts"]
        return {name: database.execute(f'SELECT * FROM "{name}"').fetchall() for name in names}
