from pathlib import Path
from typing import TYPE_CHECKING

from var_core.config.figures import FiguresConfig
from var_core.figures.draw import draw_figure
from var_core.figures.registry import OF_POLICY, OF_SYSTEMS, OF_TUNING
from var_core.job import logged
from var_core.warehouse.files import SYSTEMS_FILES, RunFiles

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

drawn = {Path(path).name for path in snakemake.input.evaluation}

with logged(snakemake.log[0]):
    draw_figure(
        snakemake.wildcards.figure,
        RunFiles.in_results(
            Path(snakemake.output.png).parents[3],
            snakemake.wildcards.model,
            snakemake.wildcards.corpus,
            snakemake.params.shards,
            snakemake.params.traced,
            # Asked for by name on a run without them, it says so.
            evaluated=snakemake.wildcards.figure in OF_POLICY and bool(snakemake.input.evaluation),
            tuned=snakemake.wildcards.figure in OF_TUNING and bool(snakemake.input.evaluation),
            systems=[
                table
                for table, name in SYSTEMS_FILES.items()
                if snakemake.wildcards.figure in OF_SYSTEMS and name in drawn
            ],
        ),
        Path(snakemake.input.verdicts),
        FiguresConfig.model_validate(snakemake.params.config),
        Path(snakemake.output.png),
        snakemake.params.code,
    )
