from pathlib import Path
from typing import TYPE_CHECKING

import torch

from var_core.config.models import DemoModel
from var_core.job import logged
from var_core.models.demo import train_demo_model

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with logged(snakemake.log[0]):
    torch.set_num_threads(snakemake.threads)
    train_demo_model(
        snakemake.wildcards.model,
        DemoModel.model_validate(snakemake.params.config),
        Path(snakemake.input.documents),
        Path(snakemake.output.record).parent,
        snakemake.params.code,
    )
