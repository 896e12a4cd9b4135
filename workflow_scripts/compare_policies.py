from pathlib import Path
from typing import TYPE_CHECKING

from var_core.config.policy import EvaluationConfig, PolicyConfig
from var_core.evaluation.compare import compare_policies
from var_core.job import logged
from var_core.policy.make import Recorded

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with logged(snakemake.log[0]):
    compare_policies(
        Path(snakemake.output.verdict).parent,
        Path(snakemake.input.policy[0]).parent,
        [Path(path) for path in snakemake.input.traces],
        Recorded.of_inputs(snakemake.input),
        PolicyConfig.model_validate(snakemake.params.policy),
        EvaluationConfig.model_validate(snakemake.params.config),
        snakemake.params.code,
        snakemake.params.tuned,
    )
