"""What a capture asks of the file system it shares with other jobs, counted by the kernel's own record of its calls."""

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from captures import write_shard

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "how-to" / "cluster.md"
MANY = (2, 10)
SEQUENCES = 10
"""Of each micro-shard; a checkpoint every two, but not behind the last."""
CAPTURES = """
import sys, torch
from pathlib import Path
from captures import CONFIG, capture
torch.set_num_threads(1)
for shard in sys.argv[2:]:
    capture(Path(shard), Path(sys.argv[1]), Path(shard).with_suffix(""), CONFIG)
"""
CALL = re.compile(r"^\d+ +(\w+)\(")

pytestmark = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")


def calls_in(folder: Path, record: str) -> Counter:
    """Kernel call -> how often it named a path in the folder."""
    lines = [line for line in record.splitlines() if f'"{folder}' in line and CALL.match(line)]
    return Counter(CALL.match(line)[1] for line in lines)


@pytest.fixture
def calls(tmp_path, model):
    """Calls on files during captures of 2 and of 10 micro-shards, by number of micro-shards."""
    shards = [
        write_shard(tmp_path / f"of-{many}.parquet", sequences=SEQUENCES * many, micro_shards=many) for many in MANY
    ]
    record = tmp_path / "calls.txt"
    command = ["strace", "-f", "--seccomp-bpf", "-s", "300", "-e", "trace=%file", "-o", str(record)]
    command += [sys.executable, "-c", CAPTURES, str(model), *map(str, shards)]
    subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"})
    text = record.read_text()
    return {many: calls_in(shard.with_suffix(""), text) for many, shard in zip(MANY, shards, strict=True)}


def documented(what: str) -> int:
    """The number that the page about clusters gives."""
    return int(re.search(rf"^\| {what} \| (\d+) \|$", PAGE.read_text(), re.MULTILINE)[1])


def test_a_job_asks_no_more_of_the_file_system_than_the_documentation_says(calls):
    few, many = (calls[number].total() for number in MANY)
    each = (many - few) / (MANY[1] - MANY[0])
    written = (calls[MANY[1]]["rename"] - calls[MANY[0]]["rename"]) / (MANY[1] - MANY[0])
    assert written == documented("files written and renamed, a micro-shard")
    # Versions of libraries look at files somewhat more or less often.
    assert each == pytest.approx(documented("calls that name a file, a micro-shard"), rel=0.15)
