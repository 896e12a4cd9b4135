"""Say how far a run is: ``python -m var_core.status results``. Reads files only; no scheduler is asked."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from var_core.config.layers import load_layers
from var_core.errors import VarError
from var_core.status.run import read_status
from var_core.status.text import as_text


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m var_core.status", description=__doc__)
    parser.add_argument("results", type=Path, nargs="?", default=Path("results"), help="folder with the results")
    parser.add_argument(
        "--configfile", type=Path, nargs="+", action="extend", default=[], help="the same as snakemake was given"
    )
    parser.add_argument("--key", help="where in these files the configuration stands, for a module of another workflow")
    parser.add_argument("--json", action="store_true", help="print JSON with every shard instead of a table")
    parser.add_argument("--list", type=int, default=20, metavar="N", help="shards that a list names at most")
    options = parser.parse_args(arguments)
    try:
        status = read_status(options.results, load_layers(options.configfile, options.key))
    except VarError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(json.dumps(status.as_json(), indent=2) if options.json else as_text(status, options.list))
    return 0


if __name__ == "__main__":
    sys.exit(main())
