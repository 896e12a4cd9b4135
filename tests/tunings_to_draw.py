"""Made-up studies, in tables as the stages write them, to draw the figures of tuning from."""

import pyarrow as pa

from policies_to_draw import RUN, open_tables
from simulated_tuning import SimulatedTuning
from var_core.figures.sources import Sources
from var_core.hypotheses.results import Verdicts


def open_study(simulation: SimulatedTuning, **tables: pa.Table) -> Sources:
    """What figures of a study are drawn from; tables that are given stand in for the made-up ones."""
    connection = open_tables(simulation.tables() | tables, simulation.layers)
    no_verdicts = Verdicts(run=RUN, provenance={}, versions={}, samples={}, results=(), curves=(), transfers=())
    return Sources(connection, RUN, no_verdicts, tuning=simulation.provenance["config"])
