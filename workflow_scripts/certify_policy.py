from pathlib import Path
from typing import TYPE_CHECKING

from var_core.config.policy import CertificateConfig
from var_core.evaluation.certify import certify_evaluated
from var_core.job import logged

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with logged(snakemake.log[0]):
    certify_evaluated(
        Path(snakemake.output.certificate).parent,
        Path(snakemake.input.trace).parent,
        Path(snakemake.input.documents),
        CertificateConfig.model_validate(snakemake.params.config),
    )
