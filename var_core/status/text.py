"""How far a run is, written for people."""

from collections.abc import Iterator, Sequence

from var_core.progress import duration
from var_core.status.capture import ShardStatus, State
from var_core.status.logs import Work
from var_core.status.run import CaptureStatus, RunStatus, Status
from var_core.status.stages import StageStatus

_TITLES: dict[State, str] = {
    "running": "running",
    "failed": "failed: mend what the last lines say, and run the same command again",
    "resumable": "resumable: run the same command again, they go on where they were",
}


def as_text(status: Status, listed: int) -> str:
    """Write a table of stages for each run, and lists of the shards that are neither done nor waiting.

    Parameters
    ----------
    status : Status
    listed : int
        Shards that a list names at most.
    """
    blocks = [f"{status.results}, {status.seen}"]
    for run in status.runs:
        blocks.append("\n".join([f"{run.model}/{run.corpus}", *map("  ".join, _aligned(_stages(run)))]))
        if run.capture:
            blocks.extend(_lists(run.capture, listed))
    blocks.append("\n".join(["all runs", *map("  ".join, _aligned([_row(status.warehouse)]))]))
    if status.others:
        blocks.append(f"also there, of another configuration (name it with --configfile): {', '.join(status.others)}")
    return "\n\n".join(blocks)


def _stages(run: RunStatus) -> list[tuple[str, str, str]]:
    rows = [_row(stage) for stage in run.before]
    if run.capture:
        rows.append(_capture_row(run.capture))
    return [*rows, *map(_row, run.after)]


def _row(stage: StageStatus) -> tuple[str, str, str]:
    said = f"{stage.done} of {stage.total} files"
    if stage.work and stage.state != "done":
        said += f"; {_share(stage.work)}"
    if stage.lines:
        said += f"; {stage.lines[-1]} ({stage.log})"
    return stage.name, stage.state, said


def _capture_row(capture: CaptureStatus) -> tuple[str, str, str]:
    counts, shards = capture.counts, len(capture.shards)
    under_way: tuple[State, ...] = ("running", "failed", "resumable")
    idle = "done" if counts["done"] == shards else "waiting"
    state = next((name for name in under_way if counts[name]), idle)
    said = [f"{counts['done']} of {shards} shards"]
    said += [f"{number} {name}" for name, number in counts.items() if number and name != "done"]
    if capture.rate:
        said.append(f"{capture.rate:,.0f} {capture.unit}s/s")
    if capture.remaining_s is not None:
        said.append(f"about {duration(capture.remaining_s)} to go with as many jobs as now")
    return "capture", state, ", ".join(said)


def _lists(capture: CaptureStatus, listed: int) -> Iterator[str]:
    for state, title in _TITLES.items():
        shards = [shard for shard in capture.shards if shard.state == state]
        if not shards:
            continue
        lines = [title]
        for row, shard in zip(_aligned([_cells(each) for each in shards[:listed]]), shards, strict=False):
            lines.append("  ".join(row).rstrip())
            if state == "failed":
                lines += [f"      {line}" for line in (*shard.lines, shard.log)]
        if len(shards) > listed:
            lines.append(f"  and {len(shards) - listed} more (--list {len(shards)} names them)")
        yield "\n".join(lines)


def _cells(shard: ShardStatus) -> tuple[str, str, str]:
    said = [_share(shard.work)] if shard.work else []
    if shard.state == "running":
        said += [shard.owner or ""]
    elif shard.state == "failed":
        said += ["goes on from there" if shard.resumable else "begins anew"]
    else:
        said += shard.lines
    return shard.split, f"{shard.shard:05d}", ", ".join(said)


def _share(work: Work) -> str:
    said = f"{100 * work.share:.0f} % of {work.total:,} {work.unit}s"
    if work.rate:
        said += f", {work.rate:,.0f} {work.unit}s/s, {duration((work.total - work.done) / work.rate)} to go"
    return said


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Pad all columns but the last, behind an indent."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [("", *(cell.ljust(w) for cell, w in zip(row[:-1], widths, strict=False)), row[-1]) for row in rows]
