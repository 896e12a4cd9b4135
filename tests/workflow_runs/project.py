"""A copy of the project in a folder of its own, on which tests run Snakemake."""

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import yaml

from workflow_runs.dry_runner import DryRunner

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("Snakefile", "rules", "workflow_scripts", "var_core", "config")
SMALL = {
    "runs": [{"model": "tiny", "corpus": "topics"}],
    "models": {
        "tiny": {
            "source": "demo",
            "corpus": "topics",
            "vocabulary": 512,
            "layers": 2,
            "hidden": 32,
            "intermediate": 48,
            "heads": 2,
            "experts": 4,
            "sequence_length": 64,
            "max_position": 64,
            "steps": 30,
            "evaluate_tokens": 5000,
        }
    },
    "corpora": {
        "topics": {
            "source": "python-stdlib",
            "domains": ["reference", "docstrings"],
            "splits": {"train": 0.3, "capture": 0.25, "calibration": 0.1, "tuning": 0.05, "heldout": 0.3},
            "max_tokens": {"capture": 30000, "calibration": 8000, "tuning": 4000, "heldout": 15000},
        }
    },
    "sequences": {"length": 64},
    "capture": {"shards": {"capture": 3, "calibration": 1, "heldout": 1}, "checkpoint_tokens": 4000},
    "hypotheses": {"permutations": 50, "bootstrap": 50, "h2": {"goodness_of_fit_draws": 5}},
    "tuning": {
        "trials": 12,
        "probes": 4,
        "probe_sequences": 16,
        "front_points": 3,
        "max_sequences": 16,
        "confidence": None,
        "max_learned_share": None,
    },
    "evaluation": {"max_sequences": 48, "sequences_per_cluster": 2, "thresholds": [0.5], "bootstrap": 50},
    "systems": {
        "devices": ["laptop-nvme"],
        "profile": {"batches": [1, 4], "heldout_batches": [2], "rounds": 5, "prompt": 16},
        "costs": {"batches": [1], "contexts": [64], "published": False},
        "caches": {"batches": [1], "most_sizes": 2, "max_sequences": 4, "bootstrap": 50},
        "offload": {"sequences": 1, "tokens": 8, "rounds": 1},
    },
    "figures": {"dpi": 60},
}


@dataclass(frozen=True)
class Plan:
    """What a dry run would execute."""

    jobs: dict[str, int]
    """rule -> number of jobs; targets, which do nothing themselves, are left out"""
    messages: tuple[str, ...]
    """what each job would say, with the names of its model and corpus"""


class Project:
    """A copy of the project, whose code and results a test may alter."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._runner: DryRunner | None = None

    @classmethod
    def new(cls, folder: Path) -> "Project":
        """Copy the project's code, with the small configuration beside it."""
        for name in PARTS:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, folder / name)
        (folder / "small.yaml").write_text(yaml.safe_dump(SMALL))
        return cls(folder)

    def copy(self, folder: Path) -> "Project":
        """Copy everything, results and times of files too."""
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)
        return type(self)(folder)

    def snakemake(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run Snakemake in the folder on the small configuration, or on one that the arguments name."""
        command = [sys.executable, "-m", "snakemake", *_with_configuration(arguments)]
        environment = os.environ | {"PYTHONPATH": str(self.folder), "PYTHONDONTWRITEBYTECODE": "1"}
        return subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL
        )

    def plan(self, *arguments: str) -> Plan:
        """Dry run, as the command line would, in a fork of a process that has imported Snakemake: many are wanted."""
        if self._runner is None:
            self._runner = DryRunner(self.folder)
        code, text = self._runner.run(_with_configuration(("--dry-run", *arguments)))
        assert code == 0, text
        return read_plan(text)

    def planned(self, *arguments: str) -> set[str]:
        """Rules that a dry run would execute."""
        return set(self.plan(*arguments).jobs)


TARGETS = {
    "all", "corpus", "model", "capture", "statistics", "hypotheses", "policy", "tuning", "evaluation", "certificate",
    "profile", "costs", "break_even", "warehouse", "figures", "report",
}  # fmt: skip


def read_plan(text: str) -> Plan:
    """Read what a dry run printed."""
    if "Nothing to be done" in text:
        return Plan({}, ())
    table = text.split("Job stats:")[-1].split("total")[0].splitlines()[3:]
    jobs = {line.split()[0]: int(line.split()[1]) for line in table if line.strip()}
    messages = re.findall(r"^Job \d+: (.*)$", text, flags=re.MULTILINE)
    plan = Plan({rule: count for rule, count in jobs.items() if rule not in TARGETS}, tuple(messages))
    assert len(messages) == sum(plan.jobs.values()), text
    return plan


def executed(result: subprocess.CompletedProcess[str]) -> dict[str, int]:
    """Read what a real run has executed: rule -> number of jobs."""
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-6000:]
    rules = re.findall(r"^Finished jobid: \d+ \(Rule: (\w+)\)$", result.stdout + result.stderr, flags=re.MULTILINE)
    return {rule: count for rule, count in Counter(rules).items() if rule not in TARGETS}


def _with_configuration(arguments: tuple[str, ...]) -> list[str]:
    configuration = [] if "--configfile" in arguments else ["--configfile", "small.yaml"]
    return ["--cores", "2", *configuration, *arguments]
