from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import TypeAdapter

from var_core.config.models import AnyModelConfig
from var_core.job import logged
from var_core.models.fetch import fetch_model

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with logged(snakemake.log[0]):
    fetch_model(
        snakemake.wildcards.model,
        TypeAdapter(AnyModelConfig).validate_python(snakemake.params.config),
        Path(snakemake.output.record),
        snakemake.params.code,
    )
