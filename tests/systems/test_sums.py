"""Of sums over decisions that others recorded nothing can be replayed, and that is said."""

from var_core.config.models import TraceModel
from var_core.config.systems import CostsConfig, SystemsConfig
from var_core.files import read_json
from var_core.parquet import read_table, write_table
from var_core.systems.jobs import Job, Routing, simulate_run
from var_core.systems.simulate import CACHE_SIMULATIONS
from var_core.systems.verdict import Found, find_break_even
from var_core.traces.schema import TRACE

SITES = [{"layer": layer, "path": "recorded", "experts": 8, "top_k": 2} for layer in range(2)]


def test_nothing_is_replayed_and_that_is_said(tmp_path):
    traces = (tmp_path / "heldout-00000.trace.parquet", tmp_path / "capture-00000.trace.parquet")
    for path in traces:
        write_table(path, TRACE.empty_table(), {"run": "m/c", "sites": SITES, "config": {}})
    routing = Routing(traces[:1], traces[1:], tmp_path / "documents.parquet", None)
    systems = SystemsConfig(costs=CostsConfig(published=False))
    job = Job(routing, None, TraceModel(source="trace", experts=8, top_k=2), None, systems, "c0de")
    simulate_run(job, tmp_path / "cache_simulations.parquet")
    simulations = read_table(tmp_path / "cache_simulations.parquet")
    assert simulations.schema.equals(CACHE_SIMULATIONS) and simulations.num_rows == 0
    find_break_even(job, Found(simulations, None, None, None), tmp_path)
    said = read_json(tmp_path / "verdict.json")
    assert said["headline"] == "The order of decisions was not recorded, so no cache was replayed."
    assert said["text"] == [said["headline"]] and said["capacity_share"] is None
