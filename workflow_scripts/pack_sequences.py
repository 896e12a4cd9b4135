from pathlib import Path
from typing import TYPE_CHECKING

from var_core.config.capture import MicroShards, Shards
from var_core.config.corpus import MaxTokens, SequencesConfig
from var_core.corpus.sharding import write_token_shards
from var_core.job import logged
from var_core.models.folder import max_positions, read_record

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with logged(snakemake.log[0]):
    model = read_record(Path(snakemake.input.model))
    write_token_shards(
        documents=Path(snakemake.input.documents),
        model_folder=model.folder,
        run=f"{snakemake.wildcards.model}/{snakemake.wildcards.corpus}",
        sequences=SequencesConfig.model_validate(snakemake.params.sequences),
        shards=Shards.model_validate(snakemake.params.shards),
        micro_shards=MicroShards.model_validate(snakemake.params.micro_shards),
        max_tokens=MaxTokens.model_validate(snakemake.params.max_tokens),
        model_max_positions=max_positions(model.folder),
        output=Path(snakemake.output.manifest).parent,
        code=snakemake.params.code,
    )
