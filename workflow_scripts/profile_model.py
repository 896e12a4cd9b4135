from pathlib import Path
from typing import TYPE_CHECKING

import torch
from pydantic import TypeAdapter

from var_core.config.models import AnyModelConfig
from var_core.config.policy import AuditConfig
from var_core.config.systems import ProfileConfig
from var_core.evaluation.stage import Sources
from var_core.gpus import take_gpus
from var_core.job import logged
from var_core.systems.jobs import shape_of_model
from var_core.systems.on_model import profile_run

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with logged(snakemake.log[0]):
    # One, as the other stages: threads that wait for each other would be timed too.
    torch.set_num_threads(1)
    take_gpus(snakemake.resources.get("gpu", 0))
    profile_run(
        Sources.of_job(snakemake.input, snakemake.params),
        shape_of_model(
            Path(snakemake.input.model),
            TypeAdapter(AnyModelConfig).validate_python(snakemake.params.settings["model"]),
            [],
        ),
        ProfileConfig.model_validate(snakemake.params.systems),
        AuditConfig.model_validate(snakemake.params.audit),
        Path(snakemake.output.profile),
        Path(snakemake.output.trace),
        Path(snakemake.output.machine),
        snakemake.params.code,
    )
