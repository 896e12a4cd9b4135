from pathlib import Path
from typing import TYPE_CHECKING

from var_core.config.policy import PolicyConfig
from var_core.files import read_json
from var_core.job import logged
from var_core.policy.make import Recorded, make_policy

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with logged(snakemake.log[0]):
    make_policy(
        Recorded.of_inputs(snakemake.input),
        PolicyConfig.model_validate(snakemake.params.config),
        read_json(Path(snakemake.input.manifest))["tokenizer"]["digest"],
        Path(snakemake.output.record).parent,
        snakemake.params.code,
        Path(snakemake.input.chosen) if snakemake.input.get("chosen") else None,
    )
