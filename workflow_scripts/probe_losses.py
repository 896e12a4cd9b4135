from pathlib import Path
from typing import TYPE_CHECKING

import torch

from var_core.evaluation.stage import Sources
from var_core.gpus import take_gpus
from var_core.job import logged
from var_core.tuning.stage import Search, fit_by_probes

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with logged(snakemake.log[0]):
    torch.set_num_threads(snakemake.threads)
    take_gpus(snakemake.resources.get("gpu", 0))
    calibration = Sources.of_job(snakemake.input, snakemake.params)
    fit_by_probes(
        Search.of_job(snakemake.input, snakemake.params),
        calibration,
        calibration.on(snakemake.input.tuning),
        Path(snakemake.output[0]),
    )
