from pathlib import Path
from typing import TYPE_CHECKING

from var_core.config.hypotheses import HypothesesConfig
from var_core.hypotheses.run import test_hypotheses
from var_core.job import logged
from var_core.warehouse.files import RunFiles
from var_core.warehouse.run import open_run

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with logged(snakemake.log[0]):
    files = RunFiles.in_results(
        Path(snakemake.output.verdicts).parents[3],
        snakemake.wildcards.model,
        snakemake.wildcards.corpus,
        snakemake.params.shards,
        snakemake.params.traced,
        evaluated=False,
        tuned=False,
        systems=(),
    )
    with open_run(files) as connection:
        test_hypotheses(
            connection,
            files.run,
            HypothesesConfig.model_validate(snakemake.params.config),
            Path(snakemake.output.verdicts).parent,
            snakemake.params.code,
        )
