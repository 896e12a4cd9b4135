from pathlib import Path
from typing import TYPE_CHECKING

from var_core.job import logged
from var_core.systems.jobs import Job, count_run

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with logged(snakemake.log[0]):
    count_run(Job.of(snakemake.input, snakemake.params), Path(snakemake.output[0]))
