"""Running the preflight as users run it, in a folder with a configuration."""

import os
import subprocess
import sys
from pathlib import Path

import yaml

from capture_processes import ROOT

CONFIG = {
    "runs": [{"model": "tiny", "corpus": "topics"}],
    "models": {"tiny": {"source": "demo", "corpus": "topics"}},
    "corpora": {"topics": {"source": "python-stdlib", "max_tokens": {"capture": 10_000, "heldout": 5_000}}},
}


def run_preflight(
    folder: Path, *arguments: str, profile: dict | None = None, config: dict | None = None, **environment: str
) -> tuple[int, dict[str, tuple[str, str]], str]:
    """Run the command; return its status, its checks as name -> (outcome, what was said), and what it printed."""
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG | (config or {})))
    command = [sys.executable, "-m", "var_core.preflight", "--configfile", "config.yaml", *arguments]
    if profile is not None:
        (folder / "profile.yaml").write_text(yaml.safe_dump(profile))
        command += ["--profile", "profile.yaml"]
    paths = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, env=os.environ | paths | environment, timeout=170
    )
    printed = done.stdout + done.stderr
    checks = {}
    for line in done.stdout.splitlines():
        outcome = next(each for each in ("pass", "fail", "not checked") if line.startswith(each))
        name, _, said = line.removeprefix(outcome).strip().partition(": ")
        checks[name] = outcome, said
    broken = "fail" in {outcome for outcome, _ in checks.values()} or done.stderr.startswith("error: ")
    assert done.returncode == int(broken) and "Traceback" not in printed, printed
    return done.returncode, checks, printed
