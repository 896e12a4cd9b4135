"""Route CSV as llama.cpp-based engines write it: one row a chosen expert.

Columns ``turn, phase (0 prefill, 1 decode), step, layer, slot, expert, weight``; further ones are not read. Lines
before the header that begin with ``#`` may say ``n_layer``, ``n_expert`` and ``n_expert_used``, which are checked.
Prefill is written layer by layer, decode step by step. The last layer of a prompt is computed only where its output
is needed, so decisions may be missing there and nowhere else.
"""

import gzip
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc

from var_core.errors import VarError
from var_core.traces.importers.recording import Ints, Recording, Shape

_COLUMNS = {
    **dict.fromkeys(("turn", "phase", "step", "layer", "slot", "expert"), pa.int64()),
    "weight": pa.float32(),
}
_PHASES = ("prefill", "decode")
_BLOCK_BYTES = 1 << 22
Rows = dict[str, np.ndarray]


def read_route_csv(files: Sequence[tuple[Path, str]], domain: str, shape: Shape) -> Iterator[Recording]:
    """Yield a recording a turn and phase, in the order of the files; domains are ``{domain}:prefill`` and ``:decode``.

    Parameters
    ----------
    files : sequence of (Path, str)
        Files of the domain, which may be compressed (.gz), with their short names.
    domain : str
    shape : Shape

    Raises
    ------
    VarError
        If a header does not fit the configuration, or rows are not in order, incomplete or not numbers.
    """
    for number, (path, name) in enumerate(files):
        first_line, layers = _header(path, shape)
        for rows in _phases(path, first_line):
            phase = int(rows["phase"][0])
            if phase not in (0, 1):
                raise VarError(f"{path}: line {rows['line'][0]}: phase {phase} is neither 0 (prefill) nor 1 (decode)")
            group = f"{domain}/{name}:{rows['turn'][0]}"
            experts, weights, lines = _arranged(rows, path, layers, shape)

            def place(token: int, layer: int, path: Path = path, lines: Ints = lines) -> str:
                return f"{path}: line {lines[token, layer]}"

            yield Recording(
                name=f"{group}:{_PHASES[phase]}",
                group=group,
                domain=f"{domain}:{_PHASES[phase]}",
                experts=experts,
                weights=weights,
                token_ids=None,
                place=place,
                share_read=(number + 1) / len(files),
            )


def _header(path: Path, shape: Shape) -> tuple[int, int | None]:
    """Check what the comments say; return the number of the first row's line, and of layers if they say it."""
    said: dict[str, int] = {}
    line = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as stream:
            for line, text in enumerate(stream, start=1):  # noqa: B007
                if not text.startswith(b"#"):
                    break
                said |= {name: int(value) for name, value in re.findall(r"\b(n_\w+)=(\d+)", text.decode("utf-8"))}
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise VarError(f"{path}: cannot be read ({error}); replace the file") from None
    for name, key, expected in (
        ("n_expert", "experts", shape.experts),
        ("n_expert_used", "top_k", shape.top_k),
        ("n_layer", "layers", shape.layers),
    ):
        if name in said and expected is not None and said[name] != expected:
            raise VarError(f"{path}: its header says {name}={said[name]}, but models.{shape.model}.{key} is {expected}")
    return line + 1, said.get("n_layer", shape.layers)


def _phases(path: Path, first_line: int) -> Iterator[Rows]:
    """Gather the rows of one turn and phase after another, with the numbers of their lines."""
    waiting: list[Rows] = []
    try:
        with (
            pa.input_stream(str(path), compression="gzip" if path.suffix == ".gz" else None) as stream,
            pc.open_csv(
                stream,
                read_options=pc.ReadOptions(block_size=_BLOCK_BYTES, skip_rows=first_line - 2, use_threads=False),
                convert_options=pc.ConvertOptions(column_types=_COLUMNS, include_columns=list(_COLUMNS)),
            ) as reader,
        ):
            for batch in reader:
                rows: Rows = {column: batch[column].to_numpy(zero_copy_only=False) for column in _COLUMNS}
                rows["line"] = np.arange(first_line, first_line + len(batch))
                first_line += len(batch)
                _refuse_gaps(batch, rows, path)
                changes = (np.diff(rows["turn"]) != 0) | (np.diff(rows["phase"]) != 0)
                for part in np.split(np.arange(len(batch)), np.flatnonzero(changes) + 1):
                    piece = {column: values[part] for column, values in rows.items()}
                    if waiting and any(waiting[0][key][0] != piece[key][0] for key in ("turn", "phase")):
                        yield _joined(waiting)
                        waiting = []
                    waiting.append(piece)
    except (pa.ArrowException, OSError) as error:
        raise VarError(f"{path}: not a route CSV ({str(error).splitlines()[0]})") from None
    if not waiting:
        raise VarError(f"{path}: holds no decisions")
    yield _joined(waiting)


def _refuse_gaps(batch: pa.RecordBatch, rows: Rows, path: Path) -> None:
    for column in _COLUMNS:
        if batch[column].null_count:
            missing = int(np.argmax(batch[column].is_null().to_numpy(zero_copy_only=False)))
            raise VarError(f"{path}: line {rows['line'][missing]}: has no {column}, or it is no number")


def _joined(pieces: list[Rows]) -> Rows:
    return {column: np.concatenate([piece[column] for piece in pieces]) for column in pieces[0]}


def _arranged(rows: Rows, path: Path, layers: int | None, shape: Shape) -> tuple[Ints, np.ndarray, Ints]:
    """Experts and weights of shape (T, L, k), and lines of shape (T, L); E and 0 where nothing was computed."""
    k, lines = shape.top_k, rows["line"]
    slots = np.arange(len(lines)) % k
    wrong = rows["slot"] != slots
    for column in ("turn", "phase", "step", "layer"):
        wrong |= rows[column] != np.repeat(rows[column][::k], k)[: len(lines)]
    if wrong.any() or len(lines) % k:
        at = int(np.argmax(wrong)) if wrong.any() else len(lines) - 1
        raise VarError(
            f"{path}: line {lines[at]}: a decision must be {k} rows with slots 0 to {k - 1} "
            f"(models.{shape.model}.top_k is {k})"
        )
    out = (rows["expert"] < 0) | (rows["expert"] >= shape.experts)
    if out.any():
        at = int(np.argmax(out))
        raise VarError(
            f"{path}: line {lines[at]}: expert {rows['expert'][at]} is outside 0 to {shape.experts - 1} "
            f"(models.{shape.model}.experts is {shape.experts})"
        )
    step, layer = rows["step"][::k], rows["layer"][::k]
    prefill = not rows["phase"][0]
    backwards = np.diff(layer if prefill else step) < 0
    backwards |= (np.diff(layer if prefill else step) == 0) & (np.diff(step if prefill else layer) <= 0)
    if backwards.any():
        raise VarError(f"{path}: line {lines[(int(np.argmax(backwards)) + 1) * k]}: layers or steps are out of order")
    steps, token = np.unique(step, return_inverse=True)
    L = layers or int(layer.max()) + 1
    if layer.max() >= L or layer.min() < 0:
        at = int(np.argmax((layer >= L) | (layer < 0))) * k
        raise VarError(f"{path}: line {lines[at]}: layer {layer[at // k]} is outside 0 to {L - 1}")
    if (np.diff(steps) != 1).any():
        gap = int(steps[int(np.argmax(np.diff(steps) != 1))]) + 1
        raise VarError(f"{path}: line {lines[int(np.argmax(step > gap)) * k]}: step {gap} is missing before it")
    at_line = np.zeros((len(steps), L), dtype=np.int64)
    at_line[token, layer] = lines[::k]
    holes = at_line == 0
    holes[:, L - 1] &= not prefill
    if holes.any():
        where, which = np.unravel_index(int(np.argmax(holes)), holes.shape)
        raise VarError(
            f"{path}: line {at_line[where].max()}: layer {which} of step {steps[where]} is missing beside it"
        )
    experts = np.full((len(steps), L, k), shape.experts, dtype=np.int64)
    weights = np.zeros((len(steps), L, k), dtype=np.float32)
    experts[token, layer] = rows["expert"].reshape(-1, k)
    weights[token, layer] = rows["weight"].reshape(-1, k)
    return experts, weights, at_line
