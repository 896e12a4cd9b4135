from pathlib import Path
from typing import TYPE_CHECKING

import torch

from var_core.evaluation.stage import Sources
from var_core.gpus import take_gpus
from var_core.job import logged
from var_core.tuning.search import measure_front
from var_core.tuning.stage import Search

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with logged(snakemake.log[0]):
    torch.set_num_threads(snakemake.threads)
    take_gpus(snakemake.resources.get("gpu", 0))
    measure_front(
        Search.of_job(snakemake.input, snakemake.params),
        Sources.of_job(snakemake.input, snakemake.params),
        Path(snakemake.input.trials),
        Path(snakemake.output.points).parent,
        snakemake.params.code,
    )
