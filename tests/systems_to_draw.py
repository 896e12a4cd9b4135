"""What made-up routing is worth, in tables as the stages write them, to draw the figures of systems from."""

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from policies_to_draw import RUN, open_tables
from var_core.config.systems import CachesConfig
from var_core.figures.sources import Sources
from var_core.hypotheses.results import Verdicts
from var_core.parquet import write_table
from var_core.systems.break_even import Layer
from var_core.systems.devices import PRESETS
from var_core.systems.machine import MACHINE
from var_core.systems.on_model import PREDICTED
from var_core.systems.profiles import AUDITED, BARE, PLAIN, POLICY, PROFILER, PROFILES, STOPWATCH, WHOLE
from var_core.systems.simulate import CACHE_SIMULATIONS
from var_core.systems.worth import BREAK_EVEN
from var_core.warehouse.files import SYSTEMS_FILES

EXPERTS, TOP_K = 8, 2
WRONG = 0.8
"""Share of wrong predictions that the cache does not hold."""
SCHEMAS = {
    "profiles": PROFILES,
    "cache_simulations": CACHE_SIMULATIONS,
    "offloaded": PREDICTED,
    "break_even": BREAK_EVEN,
}

PLAIN_PARTS = {"attention": 1.0, "gate": 0.2, "dispatch": 0.1, "experts": 2.0, "lm_head": 0.5, "other": 0.4}
POLICY_PARTS = PLAIN_PARTS | {"gate": 0.02, "policy_decision": 1.2, "cache": 0.3}
PARTS = {PLAIN: PLAIN_PARTS, POLICY: POLICY_PARTS, AUDITED: POLICY_PARTS | {"audit": 0.25}}
FACTORS = {BARE: 1.0, STOPWATCH: 1.02, PROFILER: 1.5}
"""What instruments make of a pass."""

LINKS = {MACHINE: 2e10} | {name: device.link_bandwidth for name, device in PRESETS.items()}
ANY_LINK = 1e10
DECIDING = {"token_table": 5e-5, "context_cache": 4e-6, "next_layer": 1e-5, "previous_token": 0.0}
RECALLS = {
    "previous_token": 0.33,
    "next_layer": 0.36,
    "token_table": 0.77,
    "context_cache": 0.25,
    "oracle": 1.0,
    "random": 0.25,
}


@dataclass(frozen=True)
class SimulatedSystems:
    """What was replayed, run and timed."""

    layers: int = 4
    devices: tuple[str, ...] = (MACHINE, "h100-sxm", "rtx-4090", "laptop-nvme", "phone-ufs")
    sizes: int = 7
    batches: tuple[int, ...] = (1, 8)
    rules: tuple[str, ...] = ("lru", "lfu", "fifo", "static", "belady")
    predictions: tuple[str, ...] = tuple(RECALLS)
    intervals: bool = True
    arms: tuple[str, ...] = (PLAIN, POLICY, AUDITED)
    """that were timed; none: no model was run"""
    timed: tuple[int, ...] = (1, 2, 4, 8)
    known: tuple[str, ...] = ("mixtral-8x7b", "olmoe-1b-7b")
    shaped: bool = True
    """whether the shape of the model is known, so that there are times"""

    def tables(self):
        """All tables, without the run."""
        rows = {
            "profiles": list(profiled(self.arms, self.timed)),
            "cache_simulations": list(self._simulations()),
            "offloaded": list(self._offloaded()),
            "break_even": [*self._replayed(), *self._resident()],
        }
        return {name: pa.Table.from_pylist(found, SCHEMAS[name]) for name, found in rows.items()}

    def write(self, folder, run):
        """Write the tables as a run has them; without a model none of what it was run for."""
        for table, rows in self.tables().items():
            if self.arms or table not in ("profiles", "offloaded"):
                config = CachesConfig(confidence=0.9).model_dump(mode="json")
                write_table(folder / SYSTEMS_FILES[table], rows, {"stage": table, "run": run, "config": config})

    def shares(self):
        """Sizes of caches."""
        return np.linspace(TOP_K / EXPERTS, 1.0, self.sizes).tolist()

    def found(self, policy, share):
        """Hit rate and loads for an access."""
        if policy in RECALLS:
            missed = (1 - share) * (1 - RECALLS[policy])
            return 1 - missed, (1 - share) * (1 + 1.5 * (1 - RECALLS[policy]))
        missed = {"lru": 1.0, "lfu": 1.1, "fifo": 1.15, "static": 1.25, "belady": 0.5}[policy] * 0.8 * (1 - share)
        return 1 - missed, missed

    def _simulations(self):
        devices = self.devices if self.shaped else (None,)
        for phase, batches in (("decode", self.batches), ("prefill", (1,))):
            for batch in batches:
                policies = (*self.rules, *(self.predictions if phase == "decode" else ()))
                for start, worse in (("warm", 1.0), ("cold", 0.9)):
                    for sharing, less in (("shared", 1.0), ("per_layer", 0.95)):
                        for policy in policies:
                            for share in self.shares():
                                hits, loads = self.found(policy, share)
                                hits *= worse * less / batch**0.1
                                for device in devices:
                                    yield self._simulation(
                                        phase, batch, start, sharing, policy, share, device, hits, loads
                                    )

    def _simulation(self, phase, batch, start, sharing, policy, share, device, hits, loads):
        wide = 0.01 if self.intervals else None
        return {
            "phase": phase, "batch": batch, "recorded": False, "start": start, "sharing": sharing,
            "experts_a_layer": EXPERTS * share, "capacity_share": share, "policy": policy, "device": device,
            "tokens": 1000, "accesses": 10_000, "hits": round(10_000 * hits), "hit_rate": hits,
            "hit_rate_low": wide and hits - wide, "hit_rate_high": wide and min(hits + wide, 1.0),
            "loads": round(10_000 * loads), "prefetched": 0, "useless": 0, "loads_an_access": loads,
            "recall": RECALLS.get(policy),
        }  # fmt: skip

    def _offloaded(self):
        if not self.arms:
            return
        for phase in ("prefill", "decode"):
            for place, arm in enumerate(("resident", "lru", "token_table", "random", "next_layer")):
                resident = arm == "resident"
                hits, loads = (None, None) if resident else self.found(arm, 0.5)
                speed = 300 - 40 * place
                yield {
                    "arm": arm, "capacity": None if resident else EXPERTS * self.layers // 2, "shared": True,
                    "phase": phase, "batch": 1, "sequences": 4, "prompt": 1, "steps": 252, "tokens": 252,
                    "accesses": None if resident else 2000, "hits": None if resident else round(2000 * hits),
                    "demand_loads": None if resident else round(2000 * (1 - hits)),
                    "prefetch_loads": None if resident else round(2000 * (loads - 1 + hits)),
                    "hit_rate": hits if resident else hits + 0.01, "predicted_hit_rate": hits, "seconds": 1.0,
                    "tokens_per_second": speed, "tokens_per_second_low": speed - 5, "tokens_per_second_high": speed + 5,
                    "rounds": 2, "device": "cpu",
                }  # fmt: skip

    def _replayed(self):
        for device in self.devices if self.shaped else ():
            for batch in self.batches:
                for share in self.shares():
                    for policy in self.predictions:
                        yield self._point(device, batch, share, policy)

    def _point(self, device, batch, share, policy):
        hits, _ = self.found("lru", share)
        parts = _parts(device, DECIDING.get(policy, 0.0))
        load = parts["link_latency"] + parts["expert_bytes"] / parts["link_bandwidth"]
        free = Layer(parts["before_seconds"], parts["expert_seconds"], load, TOP_K * batch, hits, WRONG)
        own = replace(free, deciding=parts["deciding_seconds"])
        recall, wide = RECALLS[policy], 0.02 if self.intervals else None
        speed = 0.95 * float(own.speed_up(recall))
        return parts | {
            "architecture": "simulated", "case": "offloaded", "source": "replayed", "device": device, "batch": batch,
            "policy": policy, "capacity_share": share, "hit_rate": hits, "recall": recall,
            "distinct": float(TOP_K * batch), "window_seconds": float(own.window), "stall_seconds": float(own.stall),
            "break_even_recall": None if np.isnan(own.break_even_recall()) else float(own.break_even_recall()),
            "wrong_missing": WRONG,
            "speed_up_modelled": float(own.speed_up(recall)), "speed_up_free": 0.95 * float(free.speed_up(recall)),
            "speed_up": speed, "speed_up_low": wide and speed - wide, "speed_up_high": wide and speed + wide,
        }  # fmt: skip

    def _resident(self):
        for model, gain in [*(("simulated", 0.4),) * self.shaped, *((name, 0.1) for name in self.known)]:
            own = model == "simulated"
            if own and not self.arms:
                continue
            for place, device in enumerate(self.devices):
                for batch in self.timed if own and device == MACHINE else self.batches if own else (1, 8, 64):
                    measured = 0.61 + 0.02 * np.log2(batch) if own and device == MACHINE else None
                    yield _parts(device, 0.0) | {
                        "architecture": model, "case": "resident", "device": device, "batch": batch, "hit_rate": 1.0,
                        "source": "assumed" if not own else "replayed" if measured is None else "profiled",
                        "distinct": 2.0, "window_seconds": 1e-4, "stall_seconds": 0.0, "wrong_missing": 1.0,
                        "ceiling": 1 + gain / batch**0.5 * 0.9**place, "speed_up": measured,
                        "speed_up_low": measured and measured - 0.05, "speed_up_high": measured and measured + 0.1,
                    }  # fmt: skip


def profiled(arms, batches):
    """Rows of a profile."""
    for arm in arms:
        for phase, slower in (("prefill", 3.0), ("decode", 1.0)):
            for batch in batches:
                parts = {part: slower * batch**0.5 * each / 1e3 for part, each in PARTS[arm].items()}
                whole = sum(parts.values())
                for instrument, factor in FACTORS.items():
                    own = {WHOLE: whole} if instrument == BARE else {WHOLE: whole, **parts}
                    for part, seconds in own.items():
                        seconds *= factor
                        yield {
                            "arm": arm, "phase": phase, "batch": batch, "context": 64, "instrument": instrument,
                            "part": part, "seconds": seconds, "low": None if instrument == PROFILER else 0.9 * seconds,
                            "high": None if instrument == PROFILER else 1.2 * seconds,
                            "share": seconds / whole / factor, "rounds": 7,
                        }  # fmt: skip


def _parts(device, deciding):
    slower = {MACHINE: 20.0, "phone-ufs": 4.0}.get(device, 1.0)
    return {
        "before_seconds": 3e-5 * slower, "expert_seconds": 1e-5 * slower, "gate_seconds": 1e-5 * slower,
        "expert_bytes": 4e5, "link_bandwidth": LINKS.get(device, ANY_LINK), "link_latency": 1e-5,
        "deciding_seconds": deciding,
    }  # fmt: skip


def open_systems(simulation: SimulatedSystems, **tables: pa.Table) -> Sources:
    """What figures of systems are drawn from; tables that are given stand in for the made-up ones."""
    connection = open_tables({}, simulation.layers)
    for name, table in (simulation.tables() | tables).items():
        connection.register("own", table)
        connection.execute(f"CREATE OR REPLACE TABLE {name} AS SELECT '{RUN}' AS run, * FROM own")
        connection.unregister("own")
    no_verdicts = Verdicts(run=RUN, provenance={}, versions={}, samples={}, results=(), curves=(), transfers=())
    return Sources(connection, RUN, no_verdicts, systems=CachesConfig().model_dump(mode="json"))
