from pathlib import Path
from typing import TYPE_CHECKING

from var_core.config.capture import Shards
from var_core.config.corpus import MaxTokens, SequencesConfig
from var_core.corpus.shards import write_token_shards
from var_core.job import logged
from var_core.models.record import read_model_record

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with logged(snakemake.log[0]):
    model = read_model_record(Path(snakemake.input.model))
    write_token_shards(
        documents=Path(snakemake.input.documents),
        model_folder=model.folder,
        run=f"{snakemake.wildcards.model}/{snakemake.wildcards.corpus}",
        sequences=SequencesConfig.model_validate(snakemake.params.sequences),
        shards=Shards.model_validate(snakemake.params.shards),
        max_tokens=MaxTokens.model_validate(snakemake.params.max_tokens),
        model_max_positions=model.max_positions,
        output=Path(snakemake.output.manifest).parent,
        code=snakemake.params.code,
    )
