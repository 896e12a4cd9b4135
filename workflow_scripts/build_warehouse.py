from pathlib import Path
from typing import TYPE_CHECKING

from var_core.job import logged
from var_core.warehouse.build import build_warehouse
from var_core.warehouse.files import RunFiles

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with logged(snakemake.log[0]):
    output = Path(snakemake.output.database)
    build_warehouse(
        [
            RunFiles.in_results(
                output.parent, model, corpus, shards, snakemake.params.traced, evaluated, tuned, systems
            )
            for model, corpus, shards, evaluated, tuned, systems in snakemake.params.runs
        ],
        output,
        memory_limit_mb=snakemake.resources.mem_mb * 3 // 4,
        code=snakemake.params.code,
        threads=snakemake.threads,
        root=output.parent.parent,
    )
