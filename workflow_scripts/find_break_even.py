from pathlib import Path
from typing import TYPE_CHECKING

from var_core.job import logged
from var_core.systems.jobs import Job
from var_core.systems.verdict import Found, find_break_even

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with logged(snakemake.log[0]):
    find_break_even(
        Job.of(snakemake.input, snakemake.params),
        Found.of_inputs(snakemake.input),
        Path(snakemake.output.table).parent,
    )
