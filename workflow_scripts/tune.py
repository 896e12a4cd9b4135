from pathlib import Path
from typing import TYPE_CHECKING

import torch

from var_core.job import logged
from var_core.tuning.search import run_search
from var_core.tuning.stage import Search

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with logged(snakemake.log[0]):
    torch.set_num_threads(snakemake.threads)
    run_search(
        Search.of_job(snakemake.input, snakemake.params),
        snakemake.wildcards.study,
        int(snakemake.wildcards.worker),
        Path(snakemake.input.loss_model),
        Path(snakemake.output[0]),
        snakemake.params.code,
    )
