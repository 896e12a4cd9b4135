from pathlib import Path
from typing import TYPE_CHECKING

import torch

from var_core.evaluation.stage import Sources
from var_core.evaluation.timing import time_policy
from var_core.gpus import take_gpus
from var_core.job import logged

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with logged(snakemake.log[0]):
    # One, as the other stages: threads that wait for each other would be timed too.
    torch.set_num_threads(1)
    take_gpus(snakemake.resources.get("gpu", 0))
    time_policy(Sources.of_job(snakemake.input, snakemake.params), Path(snakemake.output[0]))
