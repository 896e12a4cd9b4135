"""Memory that grows neither with the tokens nor, beyond a limit, with the model."""

import torch

from var_core.benchmarks.document import Section
from var_core.benchmarks.environment import environment
from var_core.benchmarks.flat import curve
from var_core.benchmarks.spill import spilled
from var_core.benchmarks.timing import Figure, figure

_MB = 1 << 20


def memory_section() -> Section:
    """Both measurements; peaks are those of whole processes, one a point."""
    flat, limited = curve(), spilled()
    figures: dict[str, Figure | str] = {}
    for point in flat["points"]:
        peaks = {name: value / _MB for name, value in point["peak_bytes"].items()}
        key = f"memory_peak_{round(point['decisions'] / 1e6)}m"
        figures[key] = Figure(**peaks, n=point["runs"], unit="MB", against=None)
    figures["memory_largest_deviation"] = figure([flat["largest_deviation"]], "ratio", "first point")
    figures["memory_limited_peak"] = figure([limited["merge_peak_bytes"] / _MB], "MB above start")
    return Section("memory", environment(torch.device("cpu")), {"flat": flat, "limited": limited}, figures)
