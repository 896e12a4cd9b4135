from pathlib import Path
from typing import TYPE_CHECKING

from var_core.job import logged
from var_core.traces.segments import measure_segments
from var_core.warehouse.files import RunFiles

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with logged(snakemake.log[0]):
    files = RunFiles.in_results(
        Path(snakemake.output[0]).parents[3],
        snakemake.wildcards.model,
        snakemake.wildcards.corpus,
        snakemake.params.shards,
        snakemake.params.traced,
    )
    measure_segments(files.traces, snakemake.params.windows, Path(snakemake.output[0]), snakemake.params.code)
