"""What the jobs of a run do with its model: profile its parts, and run it with experts that are not in memory."""

import logging
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from var_core.config.policy import AuditConfig
from var_core.config.systems import OffloadConfig, ProfileConfig
from var_core.errors import VarError
from var_core.evaluation.arms import Subject
from var_core.evaluation.stage import Sources
from var_core.models.placement import input_device
from var_core.parquet import write_table
from var_core.policy.audit import AuditMonitor
from var_core.policy.cache import ContextCache
from var_core.policy.runtime import Observer, RuntimePolicy
from var_core.policy.shadow import ShadowAudit
from var_core.policy.store import Policy
from var_core.progress import Progress
from var_core.systems.accesses import Decisions, accesses_of, as_decode
from var_core.systems.calibration import calibrate
from var_core.systems.ceilings import measure_ceilings
from var_core.systems.counts import count
from var_core.systems.devices import Device
from var_core.systems.jobs import Routing, knowledge_of
from var_core.systems.machine import MACHINE, Machine
from var_core.systems.names import CACHE, DECODE, POLICY_DECISION
from var_core.systems.offload.prefetch import NextLayer, RandomExperts, TokenTable
from var_core.systems.offload.run import OFFLOADED, Arm, OffloadRunner, Text
from var_core.systems.offload.store import MappedStore, PinnedStore, write_experts
from var_core.systems.predictions import PREDICTORS, Knowledge, fit_next_layer, predict, predicted_passes
from var_core.systems.prefetching import Pace, Predicted, replay_prefetching
from var_core.systems.profiled_work import profiled_work
from var_core.systems.profiles import AUDITED, PLAIN, POLICY, STOPWATCH, WHOLE, Plan
from var_core.systems.profiling import profile
from var_core.systems.replay import Capacity
from var_core.systems.roofline import step_seconds
from var_core.systems.shape import ModelShape

_LOGGER = logging.getLogger(__name__)

RESIDENT, LRU, RANDOM = "resident", "lru", "random"
TOKEN_TABLE, NEXT_LAYER, CONTEXT_CACHE = "token_table", "next_layer", "context_cache"
PREDICTED = pa.schema([*OFFLOADED, pa.field("predicted_hit_rate", pa.float64())])
"""Rows of an offloaded run, with the hit rate that the replay of the recorded routing says."""


def profile_run(
    sources: Sources,
    shape: ModelShape,
    config: ProfileConfig,
    audit: AuditConfig,
    output: Path,
    trace: Path,
    machine: Path,
    code: str,
) -> None:
    """Profile a run's model under its policy and as it is; write the profile, a Chrome trace, and the machine.

    Parameters
    ----------
    sources : Sources
    shape : ModelShape
        The model's.
    config : ProfileConfig
    audit : AuditConfig
        Of the arm that is audited.
    output, trace, machine : Path
        ``profile.parquet``, ``trace.json.gz`` and ``machine.json`` to write.
    code : str
        Digest of the stage's code.
    """
    policy = sources.load_policy()
    subject = sources.subject(policy)
    batches = tuple(sorted((*config.batches, *config.heldout_batches)))
    plan = Plan(batches=batches, context=config.prompt, rounds=config.rounds)
    # Rounds take other sequences, so that none stands for all.
    text = sources.text(most=4 * max(batches)).input_ids
    arms = {
        PLAIN: None,
        POLICY: _policy(subject, policy, ()),
        AUDITED: _policy(subject, policy, (_auditor(len(subject.sites), audit),)),
    }
    with Progress(plan.runs(len(arms)), "run", "profile") as progress:
        table = profile(subject.model, subject.sites, text, arms, plan, trace, progress.advance)
    provenance = {
        "stage": "profile",
        "policy": policy.made_from,
        "config": config.model_dump(mode="json"),
        "device": str(input_device(subject.model)),
        "threads": torch.get_num_threads(),
        "code": code,
    }
    predicting = predicting_seconds(policy, text)
    measure_machine(subject, shape, table, config, predicting, machine.parent).write(machine)
    write_table(output, table, provenance)


def _policy(subject: Subject, policy: Policy, observers: tuple[Observer, ...]) -> RuntimePolicy:
    return RuntimePolicy(
        subject.model, subject.sites, subject.layout, policy.tables, policy.settings, subject.weightings, observers
    )


def _auditor(layers: int, audit: AuditConfig) -> ShadowAudit:
    """An audit that costs what any does, and never switches anything off: nothing is certified."""
    return ShadowAudit(AuditMonitor(np.zeros(layers), audit.alpha), audit.share)


def measure_machine(
    subject: Subject,
    shape: ModelShape,
    profiles: pa.Table,
    config: ProfileConfig,
    predicting: dict[str, tuple[float, float]],
    folder: Path,
) -> Machine:
    """Measure this machine's ceilings, and calibrate the cost model on a profile."""
    parameter = next(subject.model.parameters())
    ceilings = measure_ceilings(input_device(subject.model), parameter.dtype, folder)
    batches = (*config.batches, *config.heldout_batches)
    keys = [(phase, batch) for phase in ("prefill", "decode") for batch in batches]
    counts = {key: count(shape, key[0], key[1], config.prompt) for key in keys}
    layers, experts = len(shape.experts), shape.experts[0]
    met = {}
    for phase, batch in keys:
        tokens = batch * (config.prompt if phase == "prefill" else 1)
        met[phase, batch] = layers * experts.number * (1 - (1 - experts.top_k / experts.number) ** tokens)
    work, seconds = profiled_work(profiles, counts, met)
    fitted = calibrate(work, seconds, config.heldout_batches, ceilings.flops, ceilings.memory_bandwidth)
    link = ceilings.links[0]
    device = Device(
        MACHINE,
        flops=min(fitted.flops, ceilings.flops),
        memory_bandwidth=min(fitted.memory_bandwidth, ceilings.memory_bandwidth),
        link_bandwidth=link.bandwidth,
        link_latency=link.latency,
        launch=ceilings.launch,
        memory_bytes=float(ceilings.memory_bytes),
        source=f"measured on {ceilings.device}, {ceilings.threads} threads, {ceilings.dtype}; link: {link.source}",
        launches=dict(fitted.launch),
    )
    errors = np.array(
        [abs(step_seconds(counts[key], device) / each - 1) for key, each in heldout_seconds(profiles, config).items()]
    )
    return Machine(
        device, asdict(ceilings), float(np.median(errors)), max(errors), _deciding(profiles), predicting,
    )  # fmt: skip


def heldout_seconds(profiles: pa.Table, config: ProfileConfig) -> dict[tuple[str, int], float]:
    """Seconds of passes of batch sizes that the cost model is not calibrated on, by phase and batch: sums of parts."""
    found: dict[tuple[str, int], float] = {}
    for row in profiles.to_pylist():
        if (row["arm"], row["instrument"]) == (PLAIN, STOPWATCH) and row["part"] != WHOLE:
            key = row["phase"], row["batch"]
            if row["batch"] in config.heldout_batches:
                found[key] = found.get(key, 0.0) + row["seconds"]
    return found


def predicting_seconds(
    policy: Policy, token_ids: NDArray[np.integer], rounds: int = 200
) -> dict[str, tuple[float, float]]:
    """Median seconds of predicting experts at all layers, by predictor: of a pass, and of each token of it."""
    few, many = 1, 16
    found = {}
    one, all_of = (_predicting(policy, token_ids, rounds, tokens) for tokens in (few, many))
    for name, seconds in one.items():
        each = max(all_of[name] - seconds, 0.0) / (many - few)
        found[name] = (max(seconds - few * each, 0.0), each)
    return found


def _predicting(policy: Policy, token_ids: NDArray[np.integer], rounds: int, tokens: int) -> dict[str, float]:
    """Median seconds of a pass with so many tokens, of as many sequences."""
    ids = torch.from_numpy(np.resize(token_ids, (tokens, rounds + 1)).astype(np.int64))
    layers, width = len(policy.tables.present), int(policy.layout.experts)
    table, follows = TokenTable(policy.tables, width), NextLayer(np.ones((max(layers - 1, 0), width, width)))
    chosen = list(range(min(policy.tables.top_k * tokens, width)))
    cached = policy.settings.cache
    cache = None if cached is None else ContextCache(cached.limits, tokens)
    counts = np.ones((tokens, 1), np.bool_)
    taken: dict[str, list[float]] = {TOKEN_TABLE: [], NEXT_LAYER: [], **({} if cache is None else {CONTEXT_CACHE: []})}
    for place in range(1, rounds + 1):
        now, before = ids[:, place].contiguous(), ids[:, place - 1].contiguous()
        position = torch.full((tokens,), place)
        begin = time.perf_counter()
        table.begins(now, before, position)
        taken[TOKEN_TABLE].append(time.perf_counter() - begin)
        begin = time.perf_counter()
        for layer in range(layers - 1):
            follows.decided(layer, chosen)
        taken[NEXT_LAYER].append(time.perf_counter() - begin)
        if cache is not None:
            begin = time.perf_counter()
            cache.look_up(now[:, None].numpy(), ~counts, counts)
            taken[CONTEXT_CACHE].append(time.perf_counter() - begin)
    return {name: float(np.median(each)) for name, each in taken.items()}


def _deciding(profiles: pa.Table) -> float:
    """Seconds a pass of decoding, with the smallest batch, that a policy's decision takes."""
    rows = [
        row
        for row in profiles.to_pylist()
        if (row["arm"], row["phase"], row["instrument"]) == (POLICY, DECODE, STOPWATCH)
    ]
    smallest = min(row["batch"] for row in rows)
    return sum(row["seconds"] for row in rows if row["batch"] == smallest and row["part"] in (POLICY_DECISION, CACHE))


def offload_run(
    sources: Sources, routing: Routing, config: OffloadConfig, seed: int, folder: Path, output: Path, code: str
) -> None:
    """Decode with experts resident, offloaded, and prefetched; beside it what a replay of the trace says of the hits.

    Where the model's experts cannot be offloaded, or no sequence begins with so many tokens of one document, the table
    is empty and its provenance says why.

    Parameters
    ----------
    sources : Sources
    routing : Routing
    config : OffloadConfig
    seed : int
        Of random predictions and the order of runs.
    folder : Path
        For the files that experts are mapped from; it must be there.
    output : Path
        ``offloaded.parquet`` to write.
    code : str
        Digest of the stage's code.
    """
    policy = sources.load_policy()
    subject = sources.subject(policy)
    provenance = {
        "stage": "offloaded",
        "policy": policy.made_from,
        "config": config.model_dump(mode="json"),
        "threads": torch.get_num_threads(),
        "code": code,
    }
    try:
        write_experts(subject.sites, folder)
        table, reason = _decoded(subject, policy, routing, config, seed, folder), None
    except VarError as error:
        # Not every model's experts can be taken out of it; the other costs are known all the same.
        _LOGGER.warning("not run with offloaded experts: %s", error)
        table, reason = PREDICTED.empty_table(), str(error)
    write_table(output, table, provenance | {"not_run": reason})


def _decoded(
    subject: Subject, policy: Policy, routing: Routing, config: OffloadConfig, seed: int, folder: Path
) -> pa.Table:
    unseen, seen = routing.replayed()
    decisions = _of_one_document(unseen, config)
    layers, width, top_k = len(subject.sites), subject.layout.experts, subject.layout.top_k
    capacity = max(round(config.share * width * layers), top_k)
    assert decisions.token_id is not None
    ids = torch.from_numpy(decisions.token_id.reshape(-1, config.tokens))
    arms = [
        Arm(RESIDENT),
        Arm(LRU, capacity),
        Arm(TOKEN_TABLE, capacity, predictor=lambda: TokenTable(policy.tables, width)),
        Arm(RANDOM, capacity, predictor=lambda: RandomExperts(layers, width, top_k, seed)),
    ]
    if seen is not None:
        follows = fit_next_layer(seen)
        arms.append(Arm(NEXT_LAYER, capacity, predictor=lambda: NextLayer(follows)))
    mapped = MappedStore(folder, layers)
    on_gpu = input_device(subject.model).type == "cuda"
    store = PinnedStore(mapped, layers) if on_gpu else mapped
    runner = OffloadRunner(subject.model, subject.sites, store, top_k, Text(ids))
    found = runner.run(arms, config.rounds, seed).table
    knowledge = knowledge_of(routing, seen)
    said = [_said(row, decisions, capacity, knowledge, seed) for row in found.to_pylist()]
    return found.append_column(PREDICTED.field("predicted_hit_rate"), pa.array(said, pa.float64()))


def _of_one_document(decisions: Decisions, config: OffloadConfig) -> Decisions:
    """The first tokens of sequences that begin with so many of one document: what follows knows nothing of it."""
    begun = np.append(True, np.diff(decisions.sequence) != 0)
    starts = np.flatnonzero(begun)
    ends = starts + config.tokens - 1
    inside = ends < len(decisions)
    starts, ends = starts[inside], ends[inside]
    same = (decisions.sequence[starts] == decisions.sequence[ends]) & (
        decisions.document[starts] == decisions.document[ends]
    )
    if not same.any():
        raise VarError(
            f"{decisions.source}: no sequence begins with {config.tokens} tokens of one document; lower "
            "systems.offload.tokens"
        )
    first = starts[same][: config.sequences]
    return decisions.of((first[:, None] + np.arange(config.tokens)).ravel())


def _said(row: dict[str, Any], decisions: Decisions, capacity: int, knowledge: Knowledge, seed: int) -> float | None:
    """The hit rate of an arm's phase by a replay of the recorded routing; None where nothing is offloaded."""
    if row["capacity"] is None:
        return None
    passes, sequence = as_decode(decisions)
    first = np.append(True, np.diff(sequence) != 0)
    # The prompt is the first token of each sequence.
    accesses = accesses_of(decisions, passes, 2 * sequence + ~first)
    predicted = Predicted.nothing(accesses)
    if row["arm"] in PREDICTORS:
        chosen = predict(row["arm"], decisions, knowledge, seed)
        predicted = predicted_passes(chosen, passes, accesses.passes, decisions.width)
    layers = accesses.layers
    still = Pace(np.zeros((0, layers)), np.zeros((0, layers)), np.zeros(0), np.zeros((0, layers)))
    found = replay_prefetching(accesses, predicted, Capacity.of_all(capacity, np.ones(layers, np.int64)), False, still)
    own = slice(1, None, 2) if row["phase"] == DECODE else slice(0, None, 2)
    return float(found.hits[own].sum() / accesses.per_unit()[own].sum())
