from pathlib import Path
from typing import TYPE_CHECKING

import torch

from var_core.config.capture import state_bytes
from var_core.config.corpus import TraceCorpus
from var_core.config.models import TraceModel
from var_core.job import logged
from var_core.traces.importers.outputs import ImportTask
from var_core.traces.importers.stage import import_trace

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with logged(snakemake.log[0]):
    torch.set_num_threads(snakemake.threads)
    import_trace(
        ImportTask(
            run=f"{snakemake.wildcards.model}/{snakemake.wildcards.corpus}",
            model=TraceModel.model_validate(snakemake.params.model),
            corpus=TraceCorpus.model_validate(snakemake.params.corpus),
            model_record=Path(snakemake.input.model),
            shards=snakemake.params.shards,
            traced=tuple(snakemake.params.traced),
            seed=snakemake.params.seed,
            corpus_folder=Path(snakemake.output.manifest).parent,
            capture_folder=Path(snakemake.output.capture[0]).parent,
            code=snakemake.params.code,
            max_state_bytes=state_bytes(snakemake.params.max_state_mb),
        )
    )
