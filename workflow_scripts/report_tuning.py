from pathlib import Path
from typing import TYPE_CHECKING

from var_core.config.policy import EvaluationConfig
from var_core.config.tuning import TuningConfig
from var_core.job import logged
from var_core.tuning.report import report_tuning

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with logged(snakemake.log[0]):
    report_tuning(
        Path(snakemake.output.summary).parent,
        Path(snakemake.input.arms[0]).parent,
        EvaluationConfig.model_validate(snakemake.params.config),
        TuningConfig.model_validate(snakemake.params.tuning),
    )
