"""What the tables come to, in words: whether it pays, for which hardware, and how sure that is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from var_core.config.systems import SystemsConfig
from var_core.files import read_json, write_json, write_text
from var_core.parquet import read_table, write_table
from var_core.systems.jobs import Job
from var_core.systems.machine import MACHINE, Machine
from var_core.systems.names import DECODE
from var_core.systems.profiles import BARE, PLAIN, POLICY, WHOLE
from var_core.systems.published import PUBLISHED, published_shape
from var_core.systems.simulate import SHARED, WARM
from var_core.systems.worth import (
    ASSUMED,
    COSTS,
    EVEN,
    OFFLOADED,
    PAYS,
    PROFILED,
    RAN,
    RESIDENT,
    UNSURE,
    assumed_rows,
    break_even_table,
    ran_rows,
    replayed_rows,
    resident_rows,
)

TOKEN_TABLE = "token_table"
_LEADING = (TOKEN_TABLE, "next_layer", "context_cache", "previous_token")
"""Predictors that could be used; the others are controls."""
_NOT_REPLAYED = ("The order of decisions was not recorded, so no cache was replayed.",)
_WORDS = {
    PAYS: "pays",
    EVEN: "makes no difference",
    COSTS: "does not pay",
    UNSURE: "cannot be said to pay or not",
}


@dataclass(frozen=True)
class Found:
    """What was found out of a run.

    Attributes
    ----------
    simulations : pyarrow.Table
        Of ``cache_simulations.parquet``.
    profiles, offloaded : pyarrow.Table or None
        Of ``profile.parquet`` and ``offloaded.parquet``, where the model was run.
    learned_share : float or None
        Of the policy's decisions on unseen text; None without a policy.
    """

    simulations: pa.Table
    profiles: pa.Table | None
    offloaded: pa.Table | None
    learned_share: float | None

    @classmethod
    def of_inputs(cls, inputs: Any) -> "Found":
        """Read a job's inputs by their names."""
        evaluated = inputs.get("evaluated")
        learned = None
        if evaluated:
            rows = read_json(Path(evaluated))["classic"]
            learned = next(row["value"] for row in rows if (row["arm"], row["measure"]) == (POLICY, "learned_share"))
        profiles, offloaded = (
            read_table(Path(inputs.get(name))) if inputs.get(name) else None for name in ("profile", "offloaded")
        )
        return cls(read_table(Path(inputs.simulations)), profiles, offloaded, learned)


def find_break_even(job: Job, found: Found, folder: Path) -> None:
    """Write ``break_even.parquet``, ``verdict.json`` and ``report.txt``."""
    rows: list[dict[str, Any]] = []
    shape, devices, machine = job.shape, job.devices, job.machine
    predicting = {} if machine is None else machine.predicting
    deciding = 0.0 if machine is None else machine.deciding
    profiled = {} if found.profiles is None else profiled_speed(found.profiles)
    if not shape.recorded and job.routing.in_order:
        context = max(int(job.routing.replayed()[0].place.mean()), 1)
        rows += replayed_rows(shape, devices, found.simulations, predicting, context)
        if machine is not None and found.offloaded is not None:
            rows += ran_rows(shape, machine.device, found.offloaded.to_pylist(), context)
        batches = job.systems.caches.batches
        learned = found.learned_share
        share = None if learned is None else 1 - learned
        rows += resident_rows(shape, devices, batches, context, deciding, share, profiled)
    if job.systems.costs.published:
        layers = len(shape.experts)
        each = (sum(predicting.get(TOKEN_TABLE, (0.0,))) / layers, deciding / layers)
        for name in PUBLISHED:
            if name != shape.name:
                rows += assumed_rows(published_shape(name), devices, job.systems.costs, *each)
    table = break_even_table(rows)
    measured = None if found.offloaded is None else found.offloaded.to_pylist()
    said = verdict_of(table.to_pylist(), found.simulations.to_pylist(), measured, job.machine, job.systems)
    write_table(folder / "break_even.parquet", table, job.provenance("break_even", job.systems.costs))
    write_json(folder / "verdict.json", said)
    write_text(folder / "report.txt", "\n".join(said["text"]) + "\n")


def profiled_speed(profiles: pa.Table) -> dict[int, tuple[float, float, float]]:
    """Speed of decoding under the policy over that of the model as it is, by batch; ends from those of both medians."""
    wholes: dict[tuple[str, int], dict[str, Any]] = {
        (row["arm"], row["batch"]): row
        for row in profiles.to_pylist()
        if row["phase"] == DECODE and row["instrument"] == BARE and row["part"] == WHOLE
    }
    found = {}
    for (arm, batch), own in wholes.items():
        plain = wholes.get((PLAIN, batch))
        if arm == POLICY and plain is not None and own["low"] is not None and plain["low"] is not None:
            found[batch] = (
                plain["seconds"] / own["seconds"],
                plain["low"] / own["high"],
                plain["high"] / own["low"],
            )
    return found


def verdict_of(
    rows: Sequence[Mapping[str, Any]],
    simulations: Sequence[Mapping[str, Any]],
    offloaded: Sequence[Mapping[str, Any]] | None,
    machine: Machine | None,
    systems: SystemsConfig,
) -> dict[str, Any]:
    """Choose what is said, and say it."""
    share = nearest_share(simulations, systems.offload.share) if simulations else None
    best = [row for row in (_best(rows, device, share) for device in _devices(rows)) if row is not None]
    text = [
        *_resident_lines(rows),
        *(_NOT_REPLAYED if share is None else _cache_lines(simulations, share)),
        *[_offloaded_line(row) for row in best if row["source"] != RAN],
        *_known_lines(rows),
        *_run_lines(
            offloaded or [],
            [row for row in best if row["source"] == RAN],
            "" if machine is None else machine.device.source,
        ),
        *_machine_lines(machine),
    ]
    return {
        "text": text,
        "capacity_share": share,
        "best": [dict(row) for row in best],
        "headline": _NOT_REPLAYED[0] if share is None else _headline(rows, best),
    }


def nearest_share(simulations: Sequence[Mapping[str, Any]], wanted: float) -> float:
    """The replayed size of cache that is nearest to a share of all experts."""
    return min(
        (row["capacity_share"] for row in simulations if row["sharing"] == SHARED),
        key=lambda each: (abs(each - wanted), each),
    )


def _devices(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(row["device"] for row in rows))


def _best(rows: Sequence[Mapping[str, Any]], device: str, share: float | None) -> Mapping[str, Any] | None:
    """The fastest predictor on a device, at a size of cache, decoding one sequence; as it ran, where it did."""
    own = [
        row
        for row in rows
        if row["case"] == OFFLOADED and row["device"] == device and row["batch"] == 1 and row["policy"] in _LEADING
    ]
    ran = [row for row in own if row["source"] == RAN]
    replayed = [row for row in own if row["source"] != RAN and row["capacity_share"] == share]
    return max(ran or replayed, key=lambda row: row["speed_up"], default=None)


def _resident_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    own = [row for row in rows if row["case"] == RESIDENT]
    measured = min((row for row in own if row["source"] == PROFILED), key=lambda row: row["batch"], default=None)
    lines = []
    if measured is not None:
        row, number = measured, measured["batch"]
        lines.append(
            f"All experts in memory, measured on {row['device']}: decoding {_sequences(number)} is "
            f"{row['speed_up']:.2f} times as fast under the policy as without it "
            f"[{row['speed_up_low']:.2f}, {row['speed_up_high']:.2f}]: it {_WORDS[row['verdict']]}."
        )
    known = [row for row in own if row["ceiling"] is not None]
    for batch in sorted({row["batch"] for row in known})[:: max(len({row["batch"] for row in known}) - 1, 1)]:
        most = max((row for row in known if row["batch"] == batch), key=lambda row: row["ceiling"])
        lines.append(
            f"All experts in memory, by the cost model, batch {batch}: a policy that costs nothing and decides "
            f"everything is at most {most['ceiling']:.3f} times as fast ({most['architecture']} on {most['device']}, "
            "the most of all models and devices that were looked at): the router's time is all that there is to gain."
        )
    return lines


def _sequences(number: int) -> str:
    return "one sequence" if number == 1 else f"{number} sequences together"


def _cache_lines(simulations: Sequence[Mapping[str, Any]], share: float) -> list[str]:
    own = {
        row["policy"]: row
        for row in simulations
        if row["phase"] == DECODE and row["batch"] == 1 and row["start"] == WARM and row["sharing"] == SHARED
        and row["capacity_share"] == share
    }  # fmt: skip
    if "lru" not in own or "belady" not in own:
        return []
    lru, belady = own["lru"], own["belady"]
    line = (
        f"Experts offloaded, {share:.0%} of them in memory, decoding one sequence: LRU finds "
        f"{_rate(lru)} of the experts there, Belady's optimum {_rate(belady)}."
    )
    known = [own[name] for name in _LEADING if name in own]
    if known:
        line += " Recall of what is prefetched: " + ", ".join(
            f"{row['policy'].replace('_', ' ')} {row['recall']:.1%}" for row in known
        )
        line += "."
    return [line]


def _rate(row: Mapping[str, Any]) -> str:
    if row["hit_rate_low"] is None:
        return f"{row['hit_rate']:.1%}"
    return f"{row['hit_rate']:.1%} [{row['hit_rate_low']:.1%}, {row['hit_rate_high']:.1%}]"


def _offloaded_line(row: Mapping[str, Any]) -> str:
    interval = " (too few documents for an interval)"
    if row["speed_up_low"] is not None:
        interval = f" [{row['speed_up_low']:.2f}, {row['speed_up_high']:.2f}]"
    return (
        f"Offloaded on {row['device']}: prefetching by {row['policy'].replace('_', ' ')}, the fastest of those that "
        "could be used, makes "
        f"decoding {row['speed_up']:.2f} times as fast as LRU alone{interval}: it {_WORDS[row['verdict']]} "
        f"(recall {row['recall']:.0%}; {_of_predicting(row)})."
    )


def _of_predicting(row: Mapping[str, Any]) -> str:
    """What the time of predicting makes of it."""
    if not row["deciding_seconds"]:
        return "the time of predicting is not in it"
    return f"{row['speed_up_free']:.2f} times if predicting took no time"


def _known_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The recall that known architectures need, at a hit rate of 80 %, decoding one sequence."""
    own = [
        row
        for row in rows
        if row["source"] == ASSUMED and row["case"] == OFFLOADED and row["hit_rate"] == 0.8 and row["device"] != MACHINE
    ]
    if not own:
        return []
    batch = min(row["batch"] for row in own)
    least: dict[str, list[float | None]] = {}
    for row in own:
        if row["batch"] == batch:
            least.setdefault(row["device"], []).append(row["break_even_recall"])
    parts = [f"{device} {_range(each)}" for device, each in least.items()]
    return [
        f"Known architectures, decoding {_sequences(batch)}, where LRU finds 80 % of the experts and wrong predictions "
        f"are never there by chance: the recall from which prefetching pays, by the closed form: {'; '.join(parts)}."
    ]


def _range(recalls: Sequence[float | None]) -> str:
    """The least and the greatest of some recalls; None is more than all."""
    known = sorted(each for each in recalls if each is not None)
    if not known:
        return "none"
    return f"{known[0]:.0%} to {'none' if None in recalls else f'{known[-1]:.0%}'}"


def _ends(row: Mapping[str, Any]) -> str:
    if row["speed_up_low"] is None:
        return " (too few rounds for an interval)"
    return f" [{row['speed_up_low']:.2f}, {row['speed_up_high']:.2f}]"


def _link(source: str) -> str:
    """Where experts come from, as the machine's record says."""
    return f"; experts come from: {source.rsplit('link: ', 1)[1]}" if "link: " in source else ""


def _run_lines(rows: Sequence[Mapping[str, Any]], best: Sequence[Mapping[str, Any]], source: str) -> list[str]:
    own = {row["arm"]: row for row in rows if row["phase"] == DECODE}
    if not own:
        return []
    parts = []
    for name, row in own.items():
        speed = (
            f"{row['tokens_per_second']:.0f} tokens a second [{row['tokens_per_second_low']:.0f}, "
            f"{row['tokens_per_second_high']:.0f}]"
        )
        hits = "" if row["hit_rate"] is None else (
            f", hit rate {row['hit_rate']:.1%} (replay: {row['predicted_hit_rate']:.1%})"
        )  # fmt: skip
        parts.append(f"{name.replace('_', ' ')} {speed}{hits}")
    lines = [f"Really offloaded on {MACHINE}: {'; '.join(parts)}."]
    for row in best:
        lines.append(
            f"So on {row['device']} prefetching by {row['policy'].replace('_', ' ')}, the fastest that ran, makes "
            f"decoding {row['speed_up']:.2f} times as fast as LRU alone{_ends(row)}: it {_WORDS[row['verdict']]}. This "
            f"runtime's own bookkeeping is in it, which a replay knows nothing of{_link(source)}."
        )
    return lines


def _machine_lines(machine: Machine | None) -> list[str]:
    if machine is None or machine.heldout_median is None:
        return []
    return [
        f"The cost model, calibrated on this machine, is off by {machine.heldout_median:.0%} (median) and "
        f"{machine.heldout_worst:.0%} (worst) on passes of batch sizes that it was not calibrated on; on other devices "
        "it is a roofline from data sheets, without any measurement."
    ]


def _headline(rows: Sequence[Mapping[str, Any]], best: Sequence[Mapping[str, Any]]) -> str:
    """One sentence for the summary."""
    resident = min((row for row in rows if row["source"] == PROFILED), key=lambda row: row["batch"], default=None)
    parts = []
    if resident is not None:
        parts.append(f"with all experts in memory a policy {_WORDS[resident['verdict']]}")
    parts += [
        f"really run with offloaded experts on {row['device']}, prefetching {_WORDS[row['verdict']]}"
        for row in best
        if row["source"] == RAN
    ]
    modelled = [row for row in best if row["source"] != RAN]
    said = [
        f"{_WORDS[which]} on {', '.join(own)}"
        for which in _WORDS
        if (own := [row["device"] for row in modelled if row["verdict"] == which])
    ]
    if said:
        parts.append(f"replayed on rooflines of data sheets it {', it '.join(said)}")
    if not parts:
        return "Times are not known; see the bytes that caches move."
    sentence = "; ".join(parts) + "."
    return sentence[0].upper() + sentence[1:]
