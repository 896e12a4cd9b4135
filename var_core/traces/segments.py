"""How often experts are used again within a few tokens, and how well that tells which ones are needed there.

The measure is the segment routing best performance of arXiv 2505.16056: one set of experts is named for all m tokens
of a window, those used in it at least a times; it is compared with the experts that each token really chose, and a is
the one threshold with the best F1. All windows of m consecutive tokens of a document count, so windows overlap.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy.stats import binom

from var_core.parquet import read_provenance, write_table
from var_core.progress import Progress
from var_core.traces.schema import TRACE

Ints = NDArray[np.int64]

SEGMENTS = pa.schema(
    [
        pa.field("split", pa.string(), nullable=False),
        pa.field("domain", pa.string(), nullable=False),
        pa.field("layer", pa.int16(), nullable=False),
        pa.field("window_length", pa.int32(), nullable=False),
        pa.field("uses", pa.int32(), nullable=False),
        pa.field("cells", pa.int64(), nullable=False),
    ]
)
"""A row a (split, domain, layer, window length, uses) that occurs: pairs of a window and an expert that is used in it
so often, at least once."""

_ROWS = 1 << 16


def window_uses(experts: Ints, follows: NDArray[np.bool_], window: int, count: int) -> Ints:
    """Count how often each expert is used in each window.

    Parameters
    ----------
    experts : int array, shape (T, L, k)
        `count` in the slots of decisions that are not there; windows that hold one are left out at that layer. An
        expert that is named twice in a decision counts once.
    follows : bool array, shape (T,)
        Whether a token follows the one before it in the same document.
    window : int
        m, tokens of a window.
    count : int
        E.

    Returns
    -------
    int array, shape (L, m + 1)
        Pairs of a window and an expert by uses.
    """
    tokens, layers, _ = experts.shape
    uses = np.zeros((layers, window + 1), dtype=np.int64)
    run = np.cumsum(~follows)
    starts = np.flatnonzero(run[window - 1 :] == run[: max(tokens - window + 1, 0)])
    if not len(starts):
        return uses
    hot = np.zeros((tokens + 1, layers, count + 1), dtype=np.int32)
    np.put_along_axis(hot[1:], experts, 1, axis=-1)
    running = hot.cumsum(axis=0, dtype=np.int32)
    used = running[starts + window] - running[starts]
    for layer in range(layers):
        whole = used[:, layer, count] == 0
        uses[layer] = np.bincount(used[whole, layer, :count].reshape(-1), minlength=window + 1)
    return uses


def segment_predictability(uses: Ints) -> float:
    """Best F1 over the threshold, from pairs of a window and an expert by uses.

    With c uses of m, an expert that is named is right c times and wrong m - c times; all choices together are the sum
    of c over all pairs.

    Parameters
    ----------
    uses : int array, shape (m + 1,)
        As a row of :func:`window_uses`; sums over layers, domains or splits pool them.

    Returns
    -------
    float
        NaN when there are no windows.
    """
    window = len(uses) - 1
    right = np.cumsum((uses * np.arange(window + 1))[:0:-1])
    named = np.cumsum(uses[:0:-1]) * window
    return float((2 * right / (named + right[-1])).max()) if right[-1] else float("nan")


def segment_predictability_chance(experts: int, top_k: int, window: int) -> float:
    """:func:`segment_predictability` of choices that are independent and even: uses are binomial."""
    uses = np.arange(1, window + 1)[::-1]
    share = binom.pmf(uses, window, top_k / experts)
    right = np.cumsum(share * uses)
    return float((2 * right / (np.cumsum(share) * window + right[-1])).max())


@dataclass(frozen=True)
class _Block:
    """Whole sequences of one domain, arranged as tokens by layers."""

    domain: str
    experts: Ints
    follows: NDArray[np.bool_]


def measure_segments(traces: Mapping[str, Sequence[Path]], windows: Sequence[int], output: Path, code: str) -> None:
    """Measure the traces of a run and write ``segments.parquet``.

    Parameters
    ----------
    traces : mapping
        Split -> trace files.
    windows : sequence of int
        Lengths of windows.
    output : Path
        The file to write.
    code : str
        Digest of the stage's code.

    Raises
    ------
    VarError
        If a file is missing or was not written by this workflow.
    """
    found: dict[tuple[str, str, int], Ints] = {}
    layers: list[int] = []
    paths = [(split, path) for split, files in traces.items() for path in files]
    record = {"stage": "segments", "traces": {path.name: read_provenance(path)["plan"] for _, path in paths}}
    with Progress(len(paths), "file", f"segments {output.parent}") as progress:
        for split, path in paths:
            sites = read_provenance(path)["sites"]
            layers = sorted(site["layer"] for site in sites)
            count = max(site["experts"] for site in sites)
            for block in _blocks(path, layers, count, max(site["top_k"] for site in sites)):
                for window in windows:
                    key = (split, block.domain, window)
                    uses = window_uses(block.experts, block.follows, window, count)
                    found[key] = found[key] + uses if key in found else uses
            progress.advance(1)
    rows = []
    for (split, domain, window), uses in sorted(found.items()):
        for place, layer in enumerate(layers):
            for used in np.flatnonzero(uses[place, 1:]) + 1:
                rows.append((split, domain, layer, window, int(used), int(uses[place, used])))
    columns = list(zip(*rows, strict=True)) or [()] * len(SEGMENTS)
    table = pa.table(
        [pa.array(values, field.type) for values, field in zip(columns, SEGMENTS, strict=True)], schema=SEGMENTS
    )
    write_table(output, table, {**record, "windows": list(windows), "code": code})


def _blocks(path: Path, layers: Sequence[int], count: int, top_k: int) -> Iterator[_Block]:
    """Read whole sequences, several at a time."""
    waiting = TRACE.empty_table()
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=_ROWS, columns=_COLUMNS):
            waiting = pa.concat_tables([waiting.select(_COLUMNS), pa.Table.from_batches([batch])]).combine_chunks()
            sequence = waiting["sequence"].to_numpy()
            whole = int(np.searchsorted(sequence, sequence[-1])) if len(sequence) else 0
            yield from _arranged(waiting.slice(0, whole), layers, count, top_k)
            waiting = waiting.slice(whole)
    yield from _arranged(waiting, layers, count, top_k)


_COLUMNS = ["sequence", "position", "layer", "document", "domain", "experts"]


def _arranged(rows: pa.Table, layers: Sequence[int], count: int, top_k: int) -> Iterator[_Block]:
    if not len(rows):
        return
    for domain in pc.unique(rows["domain"].cast(pa.string())).to_pylist():
        mine = rows.filter(pc.equal(rows["domain"].cast(pa.string()), domain)).combine_chunks()
        sequence, position, document, layer = (
            mine[name].to_numpy().astype(np.int64) for name in ("sequence", "position", "document", "layer")
        )
        new = np.append(True, (np.diff(sequence) != 0) | (np.diff(position) != 0))
        token = np.cumsum(new) - 1
        lists = mine["experts"].combine_chunks()
        lengths = pc.list_value_length(lists).to_numpy()
        starts = np.cumsum(lengths) - lengths
        within = np.arange(lengths.sum()) - np.repeat(starts, lengths)
        place = np.searchsorted(layers, layer)
        chosen = pc.list_flatten(lists).to_numpy()
        experts = np.full((int(token[-1]) + 1, len(layers), top_k), count, dtype=np.int64)
        # Slots that a decision does not use hold its own first expert, which is counted once: a layer with a smaller k
        # is measured too, and only a decision that is not there at all breaks a window.
        there = lengths > 0
        experts[token[there], place[there]] = chosen[starts[there], None]
        experts[np.repeat(token, lengths), np.repeat(place, lengths), within] = chosen
        first = np.flatnonzero(new)
        follows = np.append(
            False,
            (np.diff(sequence[first]) == 0) & (np.diff(position[first]) == 1) & (np.diff(document[first]) == 0),
        )
        yield _Block(domain, experts, follows)
