"""Debian's packages of Slurm: installed where they are missing and that is possible."""

import os
import shutil
import subprocess

COMMANDS = {
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "sbatch": "slurm-client",
    "munged": "munge",
    "slurmdbd": "slurmdbd",
    "mariadbd": "mariadb-server",
    "setpriv": "util-linux",
}
"""What is needed, and the package it is in."""


def why_not() -> str | None:
    """Why no cluster can be started here, or None; missing packages are installed first."""
    if os.geteuid() != 0:
        return "the test cluster needs root: its nodes start the jobs of users, and limit their memory"
    missing = sorted({package for command, package in COMMANDS.items() if shutil.which(command) is None})
    if missing and shutil.which("apt-get") is None:
        return f"no {', '.join(missing)} here, and no apt-get to install them with"
    if missing:
        failure = _install(missing)
        if failure:
            return f"could not install {', '.join(missing)}: {failure}"
    return None


def _install(packages: list[str]) -> str | None:
    """Install; return the last line of what went wrong, or None."""
    # policy-rc.d keeps the packages' own services from being started where a service manager runs.
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    for command in (["update"], ["install", "--yes", "--no-install-recommends", *packages]):
        done = subprocess.run(
            ["apt-get", "--quiet", *command],
            env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        if done.returncode:
            return (done.stderr.strip().splitlines() or ["apt-get failed"])[-1]
    return None
