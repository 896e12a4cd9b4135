"""What a Snakemake profile says about a site: read as plain YAML, and leniently, since Snakemake checks it itself."""

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from var_core.errors import VarError

CAPTURE = "capture_shard"
"""The rule whose jobs are many, long, and ask for GPUs."""
_PLAIN = re.compile(r"[\w.,:@/+=|-]+")
_GPUS = re.compile(r"\bgpus?(?:[:=][A-Za-z][\w.-]*)?(?:[:=](\d+))?")
_SLURM_WORDS = ("sbatch", "slurm")


@dataclass(frozen=True)
class Profile:
    """A profile.

    Attributes
    ----------
    path : Path or None
        Its file; None if there is none, which means jobs on this machine.
    values : dict
        Its keys.
    """

    path: Path | None
    values: dict[str, Any]

    @property
    def site(self) -> Path | None:
        """What every job runs first (``site.sh`` beside the profile); None if there is nothing."""
        script = self.path.parent / "site.sh" if self.path is not None else None
        return script if script is not None and script.is_file() else None

    @property
    def executor(self) -> str:
        """Name of the executor."""
        return str(self.values.get("executor", "local"))

    @property
    def uses_slurm(self) -> bool:
        """Whether jobs go to Slurm, by the executor of that name or by commands."""
        commands = " ".join(str(value) for key, value in self.values.items() if key.startswith("cluster-generic"))
        if self.executor == "cluster-generic":
            return any(word in commands for word in _SLURM_WORDS) or any(
                name.startswith("slurm_") for name in self.resources("default")
            )
        return self.executor == "slurm"

    def resources(self, rule: str) -> dict[str, Any]:
        """What jobs of a rule ask for: what ``default-resources`` say, and over that ``set-resources`` of the rule."""
        own = self.values.get("set-resources")
        own = own.get(rule) if isinstance(own, Mapping) else None
        return {**_pairs(self.values.get("default-resources")), **_pairs(own)}

    def rules(self) -> list[str]:
        """Rules that the profile names."""
        own = self.values.get("set-resources")
        return sorted(own) if isinstance(own, Mapping) else []

    def partitions(self) -> dict[str, str]:
        """Partitions that are named, each with the key that names it."""
        found: dict[str, str] = {}
        for rule in ("default", *self.rules()):
            where = "default-resources" if rule == "default" else f"set-resources: {rule}"
            for key in ("slurm_partition", "slurm_partition_gpu"):
                for name in (plain(self.resources(rule).get(key)) or "").split(","):
                    if name:
                        found.setdefault(name, f"{where}: {key}")
        return found

    def gpus(self) -> int:
        """GPUs that a capture job asks for."""
        asked = self.resources(CAPTURE)
        if asked.get("gpu") is not None:
            number = plain(asked["gpu"]) or ""
            return int(number) if number.isdecimal() else 0
        found = _GPUS.search(f"{asked.get('gres')} {asked.get('slurm_extra')}")
        return int(found[1] or 1) if found else 0

    def slurm_request(self) -> list[str]:
        """What a capture job asks Slurm for, as options of srun; what only Snakemake can evaluate is left out."""
        asked = self.resources(CAPTURE)
        partition = asked.get("slurm_partition_gpu") if self.gpus() else None
        values = {
            "partition": partition or asked.get("slurm_partition"),
            "account": asked.get("slurm_account"),
            "qos": asked.get("qos"),
            "constraint": asked.get("constraint"),
            "clusters": asked.get("clusters"),
            "gres": asked.get("gres"),
        }
        options = [f"--{name}={text}" for name, value in values.items() if (text := plain(value)) and text != "none"]
        if plain(asked.get("gpu")) and self.gpus():
            kind = plain(asked.get("gpu_model"))
            options.append(f"--gres=gpu:{f'{kind}:' if kind else ''}{self.gpus()}")
        return options + shlex.split(str(asked.get("slurm_extra") or "").strip("'\""))


def read_profile(path: Path | None) -> Profile:
    """Read a profile from its file or its folder.

    Raises
    ------
    VarError
        If it is not there or is not YAML with keys.
    """
    if path is None:
        return Profile(None, {})
    candidates = [path] if path.is_file() else [path / name for name in ("profile.yaml", "config.yaml")]
    file = next(filter(Path.is_file, candidates), None)
    if file is None:
        raise VarError(f"{path}: no profile.yaml there; the project's profiles are in profiles/")
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise VarError(f"{file}: not readable as YAML ({' '.join(str(error).split())})") from None
    if not isinstance(values, dict):
        raise VarError(f"{file}: must hold keys with values (executor, jobs, default-resources, …)")
    return Profile(file, values)


def plain(value: Any) -> str | None:
    """Return a value as text, without the inner quotes that Snakemake wants; None for an expression or nothing."""
    text = str(value).strip().strip("'\"") if value is not None else ""
    return text if _PLAIN.fullmatch(text) else None


def _pairs(values: Any) -> dict[str, Any]:
    """Resources of a profile as a dict; they may also stand there as a list of ``name=value``."""
    if isinstance(values, Mapping):
        return dict(values)
    if isinstance(values, str):
        values = values.split()
    return dict(str(pair).split("=", 1) for pair in values or () if "=" in str(pair))
