"""Check a site before hours of work are queued: ``python -m var_core.preflight --profile profiles/slurm``."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from var_core.config.layers import load_layers
from var_core.config.root import Config
from var_core.errors import VarError
from var_core.preflight.check import Check
from var_core.preflight.models import check_models
from var_core.preflight.place import check_place
from var_core.preflight.profile import Profile, read_profile
from var_core.preflight.slurm import check_slurm
from var_core.preflight.space import check_space


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status: 0 if nothing failed."""
    parser = argparse.ArgumentParser(prog="python -m var_core.preflight", description=__doc__)
    parser.add_argument("--profile", type=Path, help="the same as snakemake is given, as a path")
    parser.add_argument(
        "--configfile", type=Path, nargs="+", action="extend", default=[], help="the same as snakemake is given"
    )
    parser.add_argument("--key", help="where in these files the configuration stands, for a module of another workflow")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder that results will be in")
    parser.add_argument("--wait", type=float, default=120.0, metavar="S", help="seconds that the test job may take")
    options = parser.parse_args(arguments)
    outcomes = []
    try:
        config, profile = load_layers(options.configfile, options.key), read_profile(options.profile)
        for check in _checks(config, profile, options.results, options.wait):
            print(check, flush=True)
            outcomes.append(check.outcome)
    except VarError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return int("fail" in outcomes)


def _checks(config: Config, profile: Profile, results: Path, wait_s: float) -> Iterator[Check]:
    """Quick ones first; the test job comes last, and only if it has a chance."""
    yield from check_models(config)
    yield check_space(config, results)
    scheduler = check_slurm(profile)
    yield from scheduler
    if scheduler[0].outcome != "fail":
        yield from check_place(profile, config.capture, results, wait_s)


if __name__ == "__main__":
    sys.exit(main())
