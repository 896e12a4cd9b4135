"""Tables of systems for a run with simulated routing: counted, replayed and judged by the real code; what needs a
model, the profile and the offloaded run, is made up."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from var_core.config.systems import CachesConfig, CostsConfig
from var_core.files import digest_of
from var_core.parquet import write_table
from var_core.systems.accesses import Decisions, accesses_of, as_decode
from var_core.systems.costs import count_costs
from var_core.systems.devices import PRESETS, Device
from var_core.systems.machine import MACHINE
from var_core.systems.names import ATTENTION, CACHE, DISPATCH, GATE, POLICY_DECISION
from var_core.systems.names import EXPERTS as EXPERTS_PART
from var_core.systems.on_model import PREDICTED
from var_core.systems.predictions import Knowledge, fit_next_layer
from var_core.systems.profiles import (
    AUDITED,
    BARE,
    PLAIN,
    POLICY,
    PROFILER,
    STOPWATCH,
    Key,
    Measured,
    Passes,
    Plan,
)
from var_core.systems.shape import Experts, LayerShape, Mixing, ModelShape, Weights
from var_core.systems.simulate import Setting, simulate
from var_core.systems.worth import assumed_rows, break_even_table, ran_rows, replayed_rows, resident_rows
from var_core.warehouse.files import SYSTEMS_FILES

CACHES = CachesConfig(batches=(1, 2), most_sizes=3, bootstrap=50)
COSTS = CostsConfig(batches=(1, 8), contexts=(256,), published=False)
PLAN = Plan(batches=(1, 4), context=32, rounds=7, profiler_rounds=6)
LAPTOP = PRESETS["laptop-nvme"]
HERE = Device(MACHINE, 2e11, 2e10, 1e10, 5e-6, 2e-5, 1.6e10, "made up")
SPEED = {PLAIN: 1.0, POLICY: 1.25, AUDITED: 1.3}
"""Arm -> seconds of its passes, relative to the model as it is."""
TOKENS_A_SECOND = {"resident": 300.0, "lru": 210.0, "token_table": 180.0, "next_layer": 190.0, "random": 150.0}


def shape(name: str, layers: int, experts: int, top_k: int, hidden: int = 64) -> ModelShape:
    """The shape of a small model."""
    square, wide = float(hidden * hidden), float(hidden * 4 * hidden)
    one = Weights(3 * wide, 3 * wide, 3 * 5 * hidden)
    layer = LayerShape(
        "layer",
        attention=Weights(4 * square, 4 * square, 8 * hidden),
        mixing=(Mixing(hidden, hidden, hidden, hidden, 2 * hidden),),
        gate=Weights(hidden * experts, hidden * experts, hidden + experts),
        experts=Experts(experts, top_k, one, 4 * one.parameters),
        other=Weights(0, 2 * hidden, 4 * hidden),
    )
    table = Weights(100.0 * hidden, 100.0 * hidden, 100 + hidden)
    return ModelShape(
        name, 4.0, hidden, 100, table, None, True, Weights(0, hidden, 2 * hidden), Weights(), (layer,) * layers
    )


class SimulatedSystems:
    """The tables of a run of which `heldout` was recorded, and `capture` of other text; both from conftest."""

    def __init__(self, capture, heldout, experts: int, model: str, ran: bool = True, seed: int = 0) -> None:
        self.seen, self.unseen = (decisions_of(each, experts) for each in (capture, heldout))
        self.ran, self.seed = ran, seed
        self.shape = shape(model, self.seen.experts.shape[1], experts, self.seen.experts.shape[2])

    @property
    def devices(self) -> tuple[Device, ...]:
        """The machine, where the model is run, and a preset."""
        return (HERE, LAPTOP) if self.ran else (LAPTOP,)

    def tables(self) -> dict[str, pa.Table]:
        """All tables, without the run."""
        simulations = self._simulations()
        tables = {
            "costs": count_costs(
                [self.shape, shape("known", 2, 16, 4, 128)], self.devices, COSTS.batches, COSTS.contexts
            ),
            "cache_simulations": simulations,
            "break_even": self._break_even(simulations),
        }
        if self.ran:
            tables |= {"profiles": self._profile(), "offloaded": self._offloaded()}
        return {table: tables[table] for table in SYSTEMS_FILES if table in tables}

    def write(self, folder: Path, statistics: dict) -> None:
        """Write the files of a run's folder ``systems``; `statistics` is the provenance of its capture split's."""
        policy = {
            "model": statistics["model"]["digest"],
            "tokenizer": "digest of the tokenizer",
            "corpus": statistics["corpus"]["digest"],
            "statistics": digest_of(statistics),
            "calibration": "digest of the calibration",
            "text": "digest of the text",
        }
        for table, rows in self.tables().items():
            own = {"run": statistics["run"]} if table not in ("profiles", "offloaded") else {}
            made = {"stage": table, **own, "policy": policy if self.ran else None, "code": "c0de"}
            write_table(folder / SYSTEMS_FILES[table], rows, made)

    def _simulations(self) -> pa.Table:
        layers = len(self.shape.experts)
        setting = Setting(
            np.array([self.shape.expert_bytes(layer) for layer in range(layers)], np.int64),
            accesses_of(self.seen, *as_decode(self.seen)).counts(),
            Knowledge(next_layer=fit_next_layer(self.seen)),
            self.shape,
            self.devices,
        )
        groups = np.arange(int(self.unseen.document.max()) + 1)
        return simulate(self.unseen, groups, self.shape.experts[0].top_k, setting, CACHES)

    def _break_even(self, simulations: pa.Table) -> pa.Table:
        rows = list(replayed_rows(self.shape, self.devices, simulations, {"next_layer": (1e-5, 0.0)}, 8))
        if self.ran:
            rows += ran_rows(self.shape, HERE, self._offloaded().to_pylist(), 8)
            measured = {1: (0.8, 0.7, 0.9), 4: (0.9, 0.85, 1.02)}
            rows += resident_rows(self.shape, self.devices, CACHES.batches, 8, 1e-4, 0.75, measured)
        rows += assumed_rows(shape("known", 2, 16, 4, 128), self.devices, COSTS, 5e-5, 5e-5)
        return break_even_table(rows)

    def _profile(self) -> pa.Table:
        random, measured = np.random.default_rng(self.seed), Measured()
        for number in range(PLAN.rounds):
            for batch in PLAN.batches:
                for arm, slower in SPEED.items():
                    for instrument in PLAN.instruments(number, batch):
                        passes = {
                            phase: _passes(random, each * batch * slower, arm, instrument)
                            for phase, each in (("prefill", 4e-3), ("decode", 1e-3))
                        }
                        measured.add(Key(arm, batch, instrument), passes)
        return measured.table(PLAN)

    def _offloaded(self) -> pa.Table:
        random = np.random.default_rng(self.seed)
        layers, (width, top_k) = len(self.shape.experts), (self.shape.experts[0].number, self.shape.experts[0].top_k)
        rows = [
            _decoded(
                random, arm, phase, tokens, layers * top_k * tokens, layers * width, int(self.shape.expert_bytes(0))
            )
            for arm in TOKENS_A_SECOND
            for phase, tokens in (("prefill", 4), ("decode", 252))
        ]
        return pa.Table.from_pylist(rows, PREDICTED)


def decisions_of(some, experts: int) -> Decisions:
    """What conftest drew of a split, as it is read from a trace."""
    return Decisions(
        some.sequence.astype(np.int64), some.position.astype(np.int64), some.document.astype(np.int64),
        np.ascontiguousarray(some.experts.swapaxes(0, 1)).astype(np.int16), experts, some.domain.astype(str),
        some.token.astype(np.int64), "simulated",
    )  # fmt: skip


def _passes(random: np.random.Generator, seconds: float, arm: str, instrument: str) -> Passes:
    whole = seconds * random.uniform(0.95, 1.05)
    if instrument == BARE:
        return Passes(whole, {}, {})
    names: Sequence[str] = (ATTENTION, GATE, DISPATCH, EXPERTS_PART)
    if arm != PLAIN:
        names = (*names, POLICY_DECISION, CACHE)
    shares = random.dirichlet(np.full(len(names), 20.0))
    watched = whole * {STOPWATCH: 1.1, PROFILER: 1.6}[instrument]
    return Passes(watched, {name: float(each * whole) for name, each in zip(names, shares, strict=True)}, {})


def _decoded(
    random: np.random.Generator, arm: str, phase: str, tokens: int, accesses: int, experts: int, size: int
) -> dict:
    speed = TOKENS_A_SECOND[arm]
    row = {
        "arm": arm, "phase": phase, "batch": 1, "sequences": 4, "prompt": 1, "steps": tokens, "tokens": tokens,
        "seconds": tokens / speed, "tokens_per_second": speed, "tokens_per_second_low": 0.95 * speed,
        "tokens_per_second_high": 1.05 * speed, "rounds": 3, "identical": True, "device": "cpu",
    }  # fmt: skip
    if arm == "resident":
        return row
    cached = experts // 2
    hits = int(accesses * random.uniform(0.5, 0.9))
    fetched = 0 if arm == "lru" else accesses // 4
    return row | {
        "capacity": cached, "shared": True, "accesses": accesses, "hits": hits, "late": 0,
        "demand_loads": accesses - hits, "prefetch_loads": fetched, "useless": fetched // 3,
        "bytes_moved": (accesses - hits + fetched) * size,
        "hit_rate": hits / accesses, "stall_seconds": 1e-3 * (accesses - hits),
        "predicted_hit_rate": hits / accesses + 0.001,
    }  # fmt: skip
