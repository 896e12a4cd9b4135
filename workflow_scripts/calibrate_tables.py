from pathlib import Path
from typing import TYPE_CHECKING

from var_core.config.policy import PolicyConfig
from var_core.job import logged
from var_core.policy.make import Recorded
from var_core.tuning.stage import calibrate_tables

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with logged(snakemake.log[0]):
    calibrate_tables(
        Recorded.of_inputs(snakemake.input),
        PolicyConfig.model_validate(snakemake.params.policy),
        snakemake.wildcards.tables,
        Path(snakemake.output[0]).parent,
    )
