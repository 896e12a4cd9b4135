from pathlib import Path
from typing import TYPE_CHECKING

from var_core.job import logged
from var_core.report.summary import write_summary

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with logged(snakemake.log[0]):
    names = ("training", "policy", "tuning", "systems")
    training, policy, tuning, systems = (snakemake.input.get(name) for name in names)
    write_summary(
        Path(snakemake.input.verdicts),
        Path(snakemake.input.manifest),
        Path(training) if training else None,
        Path(policy) if policy else None,
        Path(snakemake.output.text).parent,
        Path(tuning) if tuning else None,
        Path(systems) if systems else None,
    )
