from pathlib import Path
from typing import TYPE_CHECKING

from var_core.config.policy import EvaluationConfig
from var_core.config.tuning import TuningConfig
from var_core.job import logged
from var_core.tuning.choose import choose_policy

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with logged(snakemake.log[0]):
    choose_policy(
        Path(snakemake.output.chosen).parent,
        EvaluationConfig.model_validate(snakemake.params.config),
        TuningConfig.model_validate(snakemake.params.tuning),
        snakemake.params.code,
    )
