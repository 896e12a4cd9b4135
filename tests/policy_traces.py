"""Traces of what routers said while a policy decided."""

import numpy as np
import torch

from var_core.parquet import write_batches
from var_core.policy.runtime import Observer
from var_core.routing.batch import RoutedBatch
from var_core.statistics.quantities import Quantities
from var_core.traces.batch import trace_rows
from var_core.traces.schema import TRACE


class Everything(Observer):
    """Has the router say what it thinks of every token, and keeps it with what was decided."""

    def __init__(self):
        self.records = []
        self.decided = self.records.append

    def asks(self, layer, tokens):
        return tokens.counts.flatten()


def write_trace(path, ids, document, records, width, provenance=None):
    """What the router said, in a trace as capture writes it."""
    layers = sorted({record.layer for record in records})
    experts = torch.stack([torch.cat([r.learned_experts for r in records if r.layer == layer]) for layer in layers])
    confidence = torch.stack([torch.cat([r.confidence for r in records if r.layer == layer]) for layer in layers])
    finite = torch.ones(confidence.shape, dtype=torch.bool)
    quantities = Quantities(confidence.double(), confidence.double(), confidence.double(), finite)
    batch = RoutedBatch(None, experts, torch.full(experts.shape, 0.5))
    rows = trace_rows(np.arange(len(ids)), ids.numpy(), document, "d", batch, quantities, width)
    write_batches(path, TRACE, [rows], provenance or {})
    return [path]
