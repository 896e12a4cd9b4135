#!/usr/bin/env python3
"""Submit one job: Snakemake's submit command. It prints the job's number.

A job of an earlier start of Snakemake that does the same work, and still waits or runs, is adopted and not submitted
again. One that works on the same files with other settings is cancelled, and the new job waits for its end: no two
jobs ever have the same output. While Slurm does not answer, the submission is tried again.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from client import LOGS, PATIENCE_S, OutOfReachError, RefusedError, ask_queue, left_behind, slurm

ADOPTED = {"CONFIGURING", "PENDING", "REQUEUED", "RUNNING", "SUSPENDED"}
CANCELLED_FIRST = {
    *ADOPTED,
    "COMPLETING",
    "REQUEUE_FED",
    "REQUEUE_HOLD",
    "RESIZING",
    "SIGNALING",
    "STAGE_OUT",
    "STOPPED",
}
RETRY_S = 5


def read_properties(script: str) -> dict[str, Any]:
    """What Snakemake wrote about the job into the script that runs it."""
    marked = re.search(r"^# properties = (.*)$", script, re.MULTILINE)
    if marked is None:
        raise RefusedError("the job's script has no line '# properties = …'; use Snakemake's own jobscript")
    properties: dict[str, Any] = json.loads(marked.group(1))
    return properties


def job_name(properties: dict[str, Any], folder: str, script: str) -> tuple[str, str]:
    """Name a job: what it writes (rule, place) and, behind the last dot, what it does there.

    Two jobs that agree in the first must never run together; two that agree in both do the same work, whatever
    time and memory they were given.
    """
    rule = properties.get("rule") or properties.get("groupid") or "job"
    place = [folder, rule, properties.get("wildcards"), properties.get("output")]
    # A group does not say what its members' parameters are, so no two groups are taken for the same.
    work = [properties.get("params", script), properties.get("input"), properties["threads"]]
    return f"{rule}.{_digest(place)}", _digest(work)


def _digest(values: list[Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


def sbatch_arguments(properties: dict[str, Any]) -> list[str]:
    """The resources of a job as arguments of sbatch; named as the slurm executor plugin names them."""
    resources = properties["resources"]
    gpus, model = resources.get("gpu") or 0, resources.get("gpu_model")
    gres = resources.get("gres")
    if gpus or model:
        # --gres, unlike --gpus, is known to every Slurm, and means GPUs of one node.
        gres = ":".join(["gpu", *([str(model)] if model else []), str(gpus or 1)])
    partition = resources.get("slurm_partition")
    if gres and str(gres).startswith("gpu"):
        partition = resources.get("slurm_partition_gpu") or partition
    options = {
        "partition": partition,
        "account": resources.get("slurm_account"),
        "qos": resources.get("qos"),
        "constraint": resources.get("constraint"),
        "time": resources.get("runtime"),
        "mem-per-cpu": resources.get("mem_mb_per_cpu"),
        "mem": None if resources.get("mem_mb_per_cpu") else resources.get("mem_mb"),
        "gres": gres,
        "nodes": resources.get("nodes", 1),
        "ntasks": resources.get("tasks", 1),
        "cpus-per-task": resources.get("cpus_per_task") or properties["threads"],
        "signal": _signal(resources),
    }
    given = [f"--{name}={value}" for name, value in options.items() if value not in (None, "", "none")]
    return [*given, *shlex.split(resources.get("slurm_extra") or "")]


def _signal(resources: dict[str, Any]) -> str | None:
    """When to be told that the time is nearly up: never in more than the last tenth of it."""
    ahead = min(int(resources.get("slurm_signal_s") or 0), 6 * int(resources.get("runtime") or 0))
    return f"B:USR1@{ahead}" if ahead else None


def log_path(properties: dict[str, Any]) -> Path:
    """Where the job's output goes; ``%j`` is the job's number."""
    wildcards = "-".join(str(value) for value in (properties.get("wildcards") or {}).values())
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", wildcards)[:120]
    return LOGS / (properties.get("rule") or "group") / (f"{stem}-%j.log" if stem else "job-%j.log")


def batch_script(script: str) -> str:
    """Snakemake's script inside the one of this profile."""
    folder = Path(__file__).parent
    around = (folder / "job.sh").read_text(encoding="utf-8")
    around = around.replace("@SITE@\n", (folder / "site.sh").read_text(encoding="utf-8"))
    return around.replace("@JOBSCRIPT@\n", script if script.endswith("\n") else f"{script}\n")


def sbatch(properties: dict[str, Any], name: str, after: list[str], script: str) -> str:
    """Submit, behind the ends of other jobs; return the number."""
    log = log_path(properties)
    log.parent.mkdir(parents=True, exist_ok=True)
    # Where Snakemake itself runs inside a job, that job's settings are not meant for its jobs.
    inherited = {
        key: value
        for key, value in os.environ.items()
        if key == "SLURM_CONF" or not key.startswith(("SLURM_", "SBATCH_", "SRUN_"))
    }
    dependency = [f"--dependency=afterany:{':'.join(after)}"] if after else []
    printed = slurm(
        "sbatch", "--parsable", "--requeue", "--open-mode=append", f"--job-name={name}", f"--output={log}",
        f"--chdir={Path.cwd()}", *dependency, *sbatch_arguments(properties),
        text=batch_script(script), env=inherited,
    )  # fmt: skip
    number = printed.strip().split(";")[0]
    left_behind(number).unlink(missing_ok=True)  # of a job of this number before the controller lost its state
    return number


def submit(script: str) -> str:
    """Adopt the job that does this work already, or submit it."""
    properties = read_properties(script)
    place, work = job_name(properties, str(Path.cwd()), script)
    name = f"{place}.{work}"
    # Also finds what an sbatch submitted whose answer was lost.
    here = {number: job for number, job in ask_queue().items() if job.name.rpartition(".")[0] == place}
    same = [number for number, job in here.items() if job.name == name and job.state in ADOPTED]
    if len(same) == 1:
        print(f"Slurm job {same[0]} does this work already; it is not submitted again", file=sys.stderr)
        return same[0]
    others = [number for number, job in here.items() if job.state in CANCELLED_FIRST]
    if others:
        print(f"cancelling Slurm jobs on the same files: {' '.join(others)}", file=sys.stderr)
        slurm("scancel", *others)
    return sbatch(properties, name, others, script)


def main() -> None:
    """Submit the script that is given; try again while Slurm does not answer."""
    script = Path(sys.argv[-1]).read_text(encoding="utf-8")
    give_up, told = time.monotonic() + PATIENCE_S, False
    while True:
        try:
            print(submit(script))
            return
        except RefusedError as error:
            sys.exit(
                f"error: Slurm refuses the job: {error} (partitions, accounts, limits: profiles/slurm/profile.yaml)"
            )
        except OutOfReachError as error:
            if time.monotonic() > give_up:
                sys.exit(f"error: no job could be submitted for {PATIENCE_S:g} s: {error}")
            if not told:
                print(f"Slurm does not answer ({error}); trying again", file=sys.stderr)
                told = True
            time.sleep(RETRY_S)


if __name__ == "__main__":
    main()
