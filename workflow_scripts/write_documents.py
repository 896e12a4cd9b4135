from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import TypeAdapter

from var_core.config.corpus import CorpusConfig
from var_core.corpus.documents import write_documents
from var_core.job import logged

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with logged(snakemake.log[0]):
    write_documents(
        snakemake.wildcards.corpus,
        TypeAdapter(CorpusConfig).validate_python(snakemake.params.config),
        Path(snakemake.output.documents).parent,
        snakemake.params.code,
        dict(zip(snakemake.params.addresses, snakemake.input.copies, strict=True)),
    )
