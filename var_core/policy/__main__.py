"""Command line of policies: ``python -m var_core.policy verify FOLDER``."""

import argparse
import sys
from pathlib import Path

from var_core.policy.certificate import verify


def main(arguments: list[str]) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m var_core.policy", description=__doc__)
    parser.add_argument("command", choices=["verify"], help="recompute every number of a certificate from its files")
    parser.add_argument("folder", type=Path, help="a policy's folder with a certificate")
    options = parser.parse_args(arguments)
    failed = 0
    for check in verify(options.folder):
        failed += not check.passed
        print(f"{'pass' if check.passed else 'FAIL'}  {check.line}{': ' if check.said else ''}{check.said}")
    print("verified" if not failed else f"not verified: {failed} lines fail")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
