from pathlib import Path
from typing import TYPE_CHECKING

from var_core.job import logged
from var_core.statistics.stage import merge_shards
from var_core.statistics.tables import SCHEMAS

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with logged(snakemake.log[0]):
    files = [[Path(path) for path in snakemake.input[kind]] for kind in SCHEMAS]
    merge_shards(
        [dict(zip(SCHEMAS, shard, strict=True)) for shard in zip(*files, strict=True)],
        Path(snakemake.output.layer_stats).parent,
        snakemake.params.code,
    )
