"""What the jobs of a run do with what it recorded: count its costs, replay its trace through caches."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from pydantic import TypeAdapter

from var_core.config.base import Block
from var_core.config.models import AnyModelConfig, TraceModel
from var_core.config.systems import SystemsConfig
from var_core.errors import VarError
from var_core.evaluation.text import group_numbers
from var_core.models.folder import read_record
from var_core.parquet import read_provenance, read_table, write_table
from var_core.policy.store import Policy, load_policy
from var_core.systems.accesses import Decisions, accesses_of, as_decode, read_trace
from var_core.systems.costs import count_costs
from var_core.systems.detect import shape_of_folder
from var_core.systems.devices import Device
from var_core.systems.machine import Machine, devices_of
from var_core.systems.predictions import Knowledge, fit_next_layer
from var_core.systems.published import PUBLISHED, published_shape
from var_core.systems.shape import ModelShape, shape_of_recorded
from var_core.systems.simulate import CACHE_SIMULATIONS, Setting, simulate

_EXPERT_BYTES = {"int8": 1.0, "int4": 0.5}
"""Bytes of a parameter of experts that are quantised on loading; their scales are few."""


@dataclass(frozen=True)
class Routing:
    """What a run has recorded, and its policy.

    Attributes
    ----------
    heldout, seen : tuple of Path
        Traces to replay, and of other text, to learn from; the latter may be empty.
    documents : Path
    policy : Path or None
        The policy's folder.
    """

    heldout: tuple[Path, ...]
    seen: tuple[Path, ...]
    documents: Path
    policy: Path | None

    @classmethod
    def of_inputs(cls, inputs: Any) -> "Routing":
        """Read a job's inputs by their names."""
        policy = inputs.get("policy")
        return cls(
            tuple(map(Path, inputs.heldout)),
            tuple(map(Path, inputs.seen)),
            Path(inputs.documents),
            Path(policy[0]).parent if policy else None,
        )

    def load_policy(self) -> Policy | None:
        """The policy, if there is one."""
        return None if self.policy is None else load_policy(self.policy)

    def replayed(self) -> tuple[Decisions, Decisions | None]:
        """The trace that is replayed, and that of other text; of a run without unseen text the one that it has."""
        seen = _trace(self.seen)
        unseen = _trace(self.heldout)
        if unseen is not None:
            return unseen, seen
        if seen is None:
            raise VarError(f"{self.documents.parent}: no decisions were recorded in order; see capture.trace")
        return seen, None

    @property
    def in_order(self) -> bool:
        """Whether decisions were recorded one by one; of sums over them the traces are empty."""
        return any(pq.read_metadata(path).num_rows for path in (*self.heldout, *self.seen))

    @property
    def provenance(self) -> dict[str, Any]:
        """What the traces were made from."""
        return read_provenance((*self.heldout, *self.seen)[0])

    @property
    def top_k(self) -> int:
        """Experts of one token."""
        return max(site["top_k"] for site in self.provenance["sites"])


def _trace(paths: Sequence[Path]) -> Decisions | None:
    some = [path for path in paths if read_table(path, columns=["layer"]).num_rows]
    return read_trace(some) if some else None


def shape_of_model(record: Path | None, config: AnyModelConfig, sites: Sequence[dict[str, Any]]) -> ModelShape:
    """The shape of a run's model; of recorded routing what the configuration says.

    Raises
    ------
    VarError
        If the architecture that is named is not what was recorded.
    """
    if isinstance(config, TraceModel):
        return _recorded_shape(config, sites)
    assert record is not None
    own = read_record(record)
    quantised = _EXPERT_BYTES.get(getattr(config, "quantisation", "none"))
    exclude = getattr(config, "exclude_sites", ())
    return shape_of_folder(own.folder, own.name, getattr(config, "dtype", "auto"), quantised, exclude)


def _recorded_shape(config: TraceModel, sites: Sequence[dict[str, Any]]) -> ModelShape:
    layers, own = len(sites), config.expert_bytes
    sizes = own if isinstance(own, tuple) or own is None else (own,) * layers
    if config.architecture is None:
        return shape_of_recorded("recorded", layers, config.experts, config.top_k, sizes)
    shape = published_shape(config.architecture)
    found = (len(shape.experts), shape.experts[0].number)
    if found != (layers, config.experts):
        raise VarError(
            f"architecture: {config.architecture} has {found[0]} MoE layers of {found[1]} experts, but {layers} layers "
            f"of {config.experts} were recorded; name the architecture that was recorded, or none"
        )
    return shape if sizes is None else shape.with_sizes(sizes)


@dataclass(frozen=True)
class Job:
    """What is known of a run.

    Attributes
    ----------
    routing : Routing
    record : Path or None
        ``model.json``; None for recorded routing.
    model : AnyModelConfig
    machine : Machine or None
        What was measured of the machine that runs the model.
    systems : SystemsConfig
    code : str
        Digest of the stage's code.
    """

    routing: Routing
    record: Path | None
    model: AnyModelConfig
    machine: Machine | None
    systems: SystemsConfig
    code: str

    @classmethod
    def of(cls, inputs: Any, parameters: Any) -> "Job":
        """Read a job's inputs and parameters by their names."""
        record, machine = inputs.get("model"), inputs.get("machine")
        return cls(
            Routing.of_inputs(inputs),
            Path(record) if record else None,
            TypeAdapter(AnyModelConfig).validate_python(parameters.settings["model"]),
            Machine.read(Path(machine)) if machine else None,
            SystemsConfig.model_validate(parameters.systems),
            parameters.code,
        )

    @cached_property
    def shape(self) -> ModelShape:
        """The shape of the run's model.

        Raises
        ------
        VarError
            If it has not the MoE layers that were recorded.
        """
        sites = self.routing.provenance["sites"]
        shape = shape_of_model(self.record, self.model, sites)
        if len(shape.experts) != len(sites):
            raise VarError(
                f"{shape.name}: {len(sites)} MoE layers were recorded, and its configuration has {len(shape.experts)}; "
                "capture it again, or correct exclude_sites"
            )
        return shape

    @property
    def devices(self) -> list[Device]:
        """The machine, and the devices of the configuration."""
        return devices_of(self.systems, self.machine)

    def provenance(self, stage: str, config: Block) -> dict[str, Any]:
        """What a table was made from."""
        policy = self.routing.load_policy()
        return {
            "stage": stage,
            "run": self.routing.provenance["run"],
            "traces": [path.name for path in self.routing.heldout],
            "policy": None if policy is None else policy.made_from,
            "machine": None if self.machine is None else self.machine.device.source,
            "config": config.model_dump(mode="json"),
            "code": self.code,
        }


def count_run(job: Job, output: Path) -> None:
    """Write ``costs.parquet``: of the run's model, and of known architectures."""
    shapes = [] if job.shape.recorded else [job.shape]
    if job.systems.costs.published:
        shapes += [published_shape(name) for name in PUBLISHED if name != job.shape.name]
    table = count_costs(shapes, job.devices, job.systems.costs.batches, job.systems.costs.contexts)
    write_table(output, table, job.provenance("costs", job.systems.costs))


def simulate_run(job: Job, output: Path) -> None:
    """Replay a run's trace through caches, and write ``cache_simulations.parquet``; without rows if there is none."""
    if not job.routing.in_order:
        write_table(output, CACHE_SIMULATIONS.empty_table(), job.provenance("caches", job.systems.caches))
        return
    decisions, other = job.routing.replayed()
    shape, layers, config = job.shape, decisions.experts.shape[1], job.systems.caches
    known = all(experts.bytes_each is not None for experts in shape.experts)
    setting = Setting(
        expert_bytes=np.array([shape.expert_bytes(layer) for layer in range(layers)], np.int64) if known else None,
        heat=None if other is None else accesses_of(other, *as_decode(other)).counts(),
        knowledge=knowledge_of(job.routing, other, config.least_agreement),
        shape=shape,
        devices=() if shape.recorded else tuple(job.devices),
    )
    table = simulate(decisions, group_numbers(job.routing.documents), job.routing.top_k, setting, config)
    write_table(output, table, job.provenance("caches", config))


def knowledge_of(routing: Routing, other: Decisions | None, least_agreement: float = 0.0) -> Knowledge:
    """What predictors go by: the run's policy, and its routing on other text."""
    policy = routing.load_policy()
    cache = None if policy is None or policy.settings.cache is None else policy.settings.cache.limits
    return Knowledge(
        None if policy is None else policy.tables,
        least_agreement,
        cache,
        None if other is None else fit_next_layer(other),
        bool(routing.provenance["config"].get("isolate_documents", True)),
    )
