from pathlib import Path
from typing import TYPE_CHECKING

from var_core.config.tuning import TuningConfig
from var_core.job import logged
from var_core.tuning.search import collect_trials

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with logged(snakemake.log[0]):
    collect_trials(
        {name: [Path(path) for path in snakemake.input[name]] for name in ("search", "random")},
        Path(snakemake.input.loss_model),
        TuningConfig.model_validate(snakemake.params.tuning),
        Path(snakemake.output.trials).parent,
        snakemake.params.code,
    )
