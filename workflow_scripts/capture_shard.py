from pathlib import Path
from typing import TYPE_CHECKING

import torch
from pydantic import TypeAdapter

from var_core.capture.job import capture_shard
from var_core.capture.outputs import CaptureOutputs
from var_core.config.capture import CaptureConfig
from var_core.config.models import ModelConfig
from var_core.gpus import take_gpus
from var_core.job import logged

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with logged(snakemake.log[0]):
    torch.set_num_threads(snakemake.threads)
    settings = snakemake.params.settings
    take_gpus(snakemake.resources.get("gpu", 0))
    capture_shard(
        shard=Path(snakemake.input.shard),
        shards=snakemake.params.shards,
        model_record=Path(snakemake.input.model),
        model_config=TypeAdapter(ModelConfig).validate_python(settings["model"]),
        config=CaptureConfig.model_validate(settings["capture"]),
        outputs=CaptureOutputs(
            folder=Path(snakemake.output[0]).parent,
            stem=f"{snakemake.wildcards.split}-{snakemake.wildcards.shard}",
            trace=snakemake.params.trace,
        ),
        code=snakemake.params.code,
        seconds=60 * snakemake.resources.runtime,
    )
