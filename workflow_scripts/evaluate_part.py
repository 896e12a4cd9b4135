from pathlib import Path
from typing import TYPE_CHECKING

import torch

from var_core.evaluation.stage import Sources, evaluate_part
from var_core.gpus import take_gpus
from var_core.job import logged

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with logged(snakemake.log[0]):
    torch.set_num_threads(snakemake.threads)
    take_gpus(snakemake.resources.get("gpu", 0))
    evaluate_part(
        Sources.of_job(snakemake.input, snakemake.params),
        snakemake.params.part,
        snakemake.params.arms,
        Path(snakemake.output.losses).parent,
        snakemake.params.code,
    )
