"""Command line of the benchmarks: ``python -m var_core.benchmarks all``."""

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from var_core.benchmarks import pages, policy
from var_core.benchmarks.accumulator import accumulator_section
from var_core.benchmarks.caches import caches_section
from var_core.benchmarks.capture import capture_section, measure, not_run_section
from var_core.benchmarks.document import Section, as_text, put
from var_core.benchmarks.dry_run import dry_run_section
from var_core.benchmarks.memory import memory_section
from var_core.benchmarks.merging import merging_section
from var_core.benchmarks.random_model import STATE_BYTES, device_subject
from var_core.benchmarks.tuning import tuning_section
from var_core.benchmarks.tuning_run import TunedRun
from var_core.benchmarks.tuning_studies import samplers_section, workers_section
from var_core.errors import VarError
from var_core.files import read_json

_OUTPUT = Path("results/benchmarks/capture.json")
_GPU = "gpu_"
_OF_TUNING = ("tuning-trials", "tuning-samplers", "tuning-workers")


def main(arguments: list[str]) -> int:
    """Run the command line; return the exit status."""
    options = _parser().parse_args(arguments)
    match options.command:
        case "record":
            pages.record(options.output)
        case "render":
            pages.write()
        case "check":
            if pages.stale():
                print(f"error: {pages.PAGE} is stale; run make docs", file=sys.stderr)
                return 1
        case _:
            print(f"{torch.get_num_threads()} threads, {options.rounds} rounds", file=sys.stderr)
            for section in _sections(options):
                put(options.output, section)
            print(as_text(read_json(options.output)))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m var_core.benchmarks", description=__doc__)
    measured = (
        "all",
        "capture",
        "accumulator",
        "memory",
        "merging",
        "dry-run",
        "policy",
        "caches",
        "tuning",
        *_OF_TUNING,
    )
    parser.add_argument("command", choices=(*measured, *_OF_TUNING, "record", "render", "check"))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="of capture and policy")
    parser.add_argument("--rounds", type=int, default=15, help="rounds that count")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of a run's results")
    parser.add_argument("--model", default="demo-moe", help="of the finished run that tuning is measured on")
    parser.add_argument("--corpus", default="python-stdlib", help="of the same")
    parser.add_argument("--output", type=Path, default=_OUTPUT, help="JSON file")
    return parser


def _sections(options: argparse.Namespace) -> Iterator[Section]:
    """Run what is asked for, one after another; what is done is written before the next begins."""
    tuned = TunedRun(options.results, options.model, options.corpus)
    steps: dict[str, list[Callable[[], Section]]] = {
        "capture": [lambda: capture_section(options.results, options.rounds)],
        "accumulator": [lambda: accumulator_section(options.rounds)],
        "memory": [memory_section],
        # Minutes, and gigabytes on disk: only when asked for.
        "merging": [merging_section],
        "dry-run": [dry_run_section],
        "policy": [lambda: policy.policy_section(options.results, options.rounds)],
        "caches": [lambda: caches_section(options.rounds)],
        # On a run that is finished, and in minutes: only when asked for.
        "tuning-trials": [lambda: tuning_section(tuned, options.rounds)],
        "tuning-samplers": [lambda: samplers_section(tuned)],
        "tuning-workers": [lambda: workers_section(tuned)],
    }
    steps["tuning"] = [step for name in _OF_TUNING for step in steps[name]]
    on_gpu: dict[str, list[Callable[[], Section]]] = {
        "capture": [lambda: _gpu_section(options.rounds)],
        "policy": [lambda: _gpu_policy_section(options.rounds)],
    }
    if options.command == "all":
        chosen = [*steps["capture"], *on_gpu["capture"], *steps["accumulator"], *steps["memory"]]
        chosen += [*steps["policy"], *on_gpu["policy"]]
    elif options.device == "cuda" and options.command in on_gpu:
        chosen = on_gpu[options.command]
    else:
        chosen = steps[options.command]
    for step in chosen:
        section = step()
        print(f"{section.name}: done", file=sys.stderr)
        yield section


def _gpu_section(rounds: int) -> Section:
    if not torch.cuda.is_available():
        return not_run_section(_GPU, "no GPU", {})
    try:
        return measure(device_subject(torch.device("cuda")), rounds, _GPU, STATE_BYTES)
    except (VarError, torch.cuda.OutOfMemoryError) as error:
        return not_run_section(_GPU, " ".join(str(error).split())[:200], {})


def _gpu_policy_section(rounds: int) -> Section:
    if not torch.cuda.is_available():
        return policy.not_run_section(_GPU, "no GPU")
    try:
        return policy.measure(device_subject(torch.device("cuda")), rounds, _GPU)
    except (VarError, torch.cuda.OutOfMemoryError) as error:
        return policy.not_run_section(_GPU, " ".join(str(error).split())[:200])


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except VarError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
