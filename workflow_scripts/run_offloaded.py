import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from var_core.config.systems import OffloadConfig
from var_core.evaluation.stage import Sources
from var_core.gpus import take_gpus
from var_core.job import logged
from var_core.systems.jobs import Routing
from var_core.systems.on_model import offload_run

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with logged(snakemake.log[0]), tempfile.TemporaryDirectory(dir=Path(snakemake.output[0]).parent) as folder:
    # One for the model; loads have another.
    torch.set_num_threads(1)
    take_gpus(snakemake.resources.get("gpu", 0))
    offload_run(
        Sources.of_job(snakemake.input, snakemake.params),
        Routing.of_inputs(snakemake.input),
        OffloadConfig.model_validate(snakemake.params.systems),
        snakemake.params.seed,
        Path(folder),
        Path(snakemake.output[0]),
        snakemake.params.code,
    )
