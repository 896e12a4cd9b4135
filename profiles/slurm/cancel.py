#!/usr/bin/env python3
"""Cancel jobs: Snakemake's cancel command, which it calls on Ctrl-C and gives two seconds."""

import subprocess
import sys

if __name__ == "__main__":
    # In a session of its own it goes on where the controller is slow and Snakemake ends this script.
    command = subprocess.Popen(
        ["scancel", "--quiet", *sys.argv[1:]],
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        sys.exit(command.wait(timeout=1.5))
    except subprocess.TimeoutExpired:
        print(f"Slurm is slow to cancel {' '.join(sys.argv[1:])}; look with squeue --me", file=sys.stderr)
