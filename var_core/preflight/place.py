"""What the job's findings mean for a run: Python, shared files, locks, heartbeats and GPUs, where capture jobs run."""

from pathlib import Path

from var_core.config.capture import CaptureConfig
from var_core.errors import VarError
from var_core.gpus import visible_gpus
from var_core.preflight import node
from var_core.preflight.check import Check, failed, passed, unchecked
from var_core.preflight.job import Found, run_job
from var_core.preflight.profile import CAPTURE, Profile

JOB, PYTHON, FILES, LOCKS, HEARTBEAT, GPU = "job", "Python", "shared files", "locks", "heartbeat", "GPU"
_SHARE_OF_STALE = 0.5
"""How old a living process's sign of life may look, as a part of the time after which its lock is taken over."""


def check_place(profile: Profile, capture: CaptureConfig, results: Path, wait_s: float) -> list[Check]:
    """Run a tiny job as capture jobs will run, and judge what it finds."""
    if not (profile.uses_slurm or profile.executor == "local"):
        said = f"jobs go to the executor {profile.executor}, which the preflight cannot use"
        return [unchecked(JOB, said)]
    asked = profile.gpus() or int(profile.executor == "local" and bool(visible_gpus()))
    try:
        found = run_job(profile, results, wait_s, gpus=asked > 0)
    except VarError as error:
        return [failed(FILES, str(error))]
    if found.pending:
        said = f"{found.pending}; the queue may be long: try again, or give it more time with --wait"
        return [unchecked(JOB, said)]
    if found.fault:
        return [failed(JOB, f"{found.fault}; {_remedy(found.fault, profile)}")]
    told = found.told
    checks = [passed(JOB, f"ran on {told['host']}"), _python(told, profile), _files(found, results)]
    if told["seen"] is True:
        checks += [_locks(found), _heartbeat(found, capture)]
    return [*checks, _gpu(found, asked, profile)]


def _remedy(fault: str, profile: Profile) -> str:
    if "No such file" in fault or "not found" in fault or "No module" in fault:
        return "put the environment with Python on a file system that nodes share, or load its module in the job"
    if profile.path is None:
        return "run `make setup` first"
    return f"change what {CAPTURE} asks for in {profile.path}"


def _python(told: dict[str, object], profile: Profile) -> Check:
    if told["packages"] is True:
        return passed(PYTHON, f"{told['python']} with torch, transformers and duckdb")
    return failed(PYTHON, f"{told['python']} there, but {told['packages']}; install the project in that environment")


def _files(found: Found, results: Path) -> Check:
    told = found.told
    if told["seen"] is not True:
        return failed(FILES, f"{told['host']} does not see {results}; results must lie where all nodes see them")
    if told["rename"] is not True:
        return failed(
            FILES, f"renaming over a file fails on {told['host']} ({told['rename']}); use another file system"
        )
    unseen = [name for name, seen in found.seen.items() if not seen]
    if node.RENAMED in unseen or (node.LINKED in unseen and told["link"] is True):
        return failed(FILES, f"what {told['host']} writes under {results} is not seen here; use another file system")
    return passed(FILES, f"{results} is seen from {told['host']}, renames too")


def _locks(found: Found) -> Check:
    link, lock, host = found.told["link"], found.told["lock"], found.told["host"]
    if link is False:
        return failed(LOCKS, f"{host} made a link over a name that is taken; two jobs could capture one shard")
    if lock is not True:
        why = "a lock that is held here was given" if lock is False else str(lock)
        return failed(
            LOCKS, f"fcntl on {host}: {why}; DuckDB needs it: mount with locks (NFS: not nolock; Lustre: flock)"
        )
    if link is not True:
        return passed(LOCKS, f"fcntl holds; no hard links ({link}), so lock files are made without, which works too")
    return passed(LOCKS, "fcntl and hard links hold")


def _heartbeat(found: Found, capture: CaptureConfig) -> Check:
    if found.told["beat"] is not True or not found.silences:
        return failed(HEARTBEAT, f"signs of life are not seen here ({found.told['beat']}); use another file system")
    oldest, youngest = max(found.silences), min(found.silences)
    said = f"signs of life look {youngest:.1f} to {oldest:.1f} s old here"
    limit = _SHARE_OF_STALE * capture.lock_stale_s
    if oldest > limit or youngest < -limit:
        needed = max(oldest, -youngest) / _SHARE_OF_STALE
        return failed(
            HEARTBEAT,
            f"{said}: set the clocks, or raise capture.lock_stale_s (now {capture.lock_stale_s}) over {needed:.0f}",
        )
    return passed(HEARTBEAT, f"{said}; capture.lock_stale_s is {capture.lock_stale_s}")


def _gpu(found: Found, asked: int, profile: Profile) -> Check:
    if not asked and profile.executor == "local":
        return unchecked(GPU, "none is visible on this machine, so capture computes on the CPU")
    if not asked:
        return unchecked(GPU, f"{profile.path} asks for none for {CAPTURE} (set-resources: gpu), so it uses the CPU")
    seen, visible = found.told["gpus"], found.told["visible"]
    if isinstance(seen, int) and seen >= asked:
        return passed(GPU, f"torch sees {seen} on {found.told['host']} (CUDA_VISIBLE_DEVICES={visible})")
    said = f"{asked} asked for, torch sees {seen} on {found.told['host']} (CUDA_VISIBLE_DEVICES={visible})"
    return failed(GPU, f"{said}; check gpu, gpu_model or gres in {profile.path}, the driver there, and torch's build")
