"""SGLang's expert-distribution dumps, as ``dump_expert_distribution_record`` writes them (``.pt``).

``per_token`` dumps hold ``records``, one a forward pass, with ``input_ids``, ``forward_mode``, ``extend_seq_lens`` and
``topk_ids_of_layer`` of shape (layers, tokens, slots), -1 where nothing was chosen; and
``last_physical_to_logical_map``, because the ids are those of physical experts. ``stat`` dumps hold ``logical_count``
of shape (steps, layers, experts). Neither says which request a token belongs to: prompts are told apart within a
pass, decoded tokens are not, so a whole dump stays in one split. Weights and logits are not recorded.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from var_core.errors import VarError
from var_core.traces.importers.recording import Ints, Recording, Shape

_PHASES = {1: "prefill", 2: "decode", 3: "mixed"}
"""SGLang's ``ForwardMode``: EXTEND, DECODE, MIXED."""
_IDLE = 4


def load_dump(path: Path) -> dict[str, Any]:
    """Load a dump: tensors, lists, numbers and text only; anything else in it is refused and not run.

    Raises
    ------
    VarError
        If the file is not such a dump.
    """
    try:
        dump = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # what a damaged or foreign file raises is not limited to one kind
        raise VarError(
            f"{path}: not a dump of tensors and plain values; it is damaged, or holds pickled objects, which are not "
            "loaded because that would run their code: write it again with plain tensors, lists, numbers and text"
        ) from None
    if not isinstance(dump, dict) or not {"records", "logical_count"} & dump.keys():
        raise VarError(f"{path}: holds neither records (per_token) nor logical_count (stat)")
    return dump


def read_sglang(files: Sequence[tuple[Path, str]], domain: str, shape: Shape) -> Iterator[Recording]:
    """Yield a recording a prompt of a prefill pass, and one a decode pass.

    Parameters
    ----------
    files : sequence of (Path, str)
        ``per_token`` dumps of the domain with their short names; of one rank only, where all ranks see all tokens.
    domain : str
        Becomes ``{domain}:prefill``, ``{domain}:decode`` or ``{domain}:mixed``.
    shape : Shape

    Raises
    ------
    VarError
        If a file is no ``per_token`` dump, or a record of it is not what it should be.
    """
    for number, (path, name) in enumerate(files):
        dump = load_dump(path)
        if "records" not in dump:
            raise VarError(f"{path}: is a stat dump beside per_token dumps; give them a corpus of their own")
        to_logical = _to_logical(dump, path, shape)
        for index, record in enumerate(dump["records"]):
            where = f"{path}: record {index}"
            share_read = (number + (index + 1) / len(dump["records"])) / len(files)
            yield from _passes(record, where, f"{domain}/{name}", index, domain, to_logical, shape, share_read)


def is_stat_dump(path: Path) -> bool:
    """Whether a dump holds counts and no decisions."""
    return "logical_count" in load_dump(path)


def stat_counts(path: Path, shape: Shape) -> Ints:
    """Sum a ``stat`` dump over its steps: times each expert was chosen, shape (L, E).

    Raises
    ------
    VarError
        If shapes do not fit, or a layer's count is no multiple of k.
    """
    dump = load_dump(path)
    if "logical_count" not in dump:
        raise VarError(f"{path}: is a per_token dump beside stat dumps; give them a corpus of their own")
    count = np.asarray(dump["logical_count"])
    if count.ndim != 3 or count.shape[2] != shape.experts:
        raise VarError(
            f"{path}: logical_count has shape {count.shape}, not (steps, layers, models.{shape.model}.experts = "
            f"{shape.experts})"
        )
    chosen = count.sum(axis=0, dtype=np.int64)
    chosen = chosen if shape.moe_layers is None else chosen[_chosen_layers(shape.moe_layers, len(chosen), str(path))]
    for layer, total in enumerate(chosen.sum(axis=1).tolist()):
        if total % shape.top_k or (chosen[layer] < 0).any():
            raise VarError(
                f"{path}: layer {layer}: {total} choices are no multiple of models.{shape.model}.top_k, {shape.top_k}"
            )
    return chosen


def _to_logical(dump: dict[str, Any], path: Path, shape: Shape) -> Ints | None:
    """Logical expert of each physical one, shape (layers, physical experts)."""
    found = dump.get("last_physical_to_logical_map")
    if found is None:
        return None
    table = np.asarray(found, dtype=np.int64)
    if table.ndim != 2 or not table.size:
        raise VarError(f"{path}: last_physical_to_logical_map has shape {table.shape}, not (layers, physical experts)")
    if table.min() < 0 or int(table.max()) + 1 != shape.experts:
        raise VarError(
            f"{path}: last_physical_to_logical_map names experts 0 to {table.max()}, but models.{shape.model}.experts "
            f"is {shape.experts}"
        )
    return table


def _passes(
    record: dict[str, Any],
    where: str,
    group: str,
    index: int,
    domain: str,
    to_logical: Ints | None,
    shape: Shape,
    share_read: float,
) -> Iterator[Recording]:
    """Yield the prompts, or the decoded tokens, of one forward pass."""
    missing = {"input_ids", "forward_mode", "topk_ids_of_layer"} - record.keys()
    if missing:
        raise VarError(f"{where}: has no {', '.join(sorted(missing))}")
    mode, token_ids = record["forward_mode"], np.asarray(record["input_ids"], dtype=np.int64)
    if mode == _IDLE or not len(token_ids):
        return
    if mode not in _PHASES:
        raise VarError(f"{where}: forward_mode {mode} is neither prefill, decode nor mixed")
    experts = _experts(
        np.asarray(record["topk_ids_of_layer"], dtype=np.int64), len(token_ids), where, to_logical, shape
    )
    phase = _PHASES[mode]
    lengths = [len(token_ids)] if phase == "decode" else record.get("extend_seq_lens")
    if lengths is None or sum(lengths) != len(token_ids):
        raise VarError(f"{where}: extend_seq_lens does not sum to its {len(token_ids)} tokens")
    start = 0
    for prompt, length in enumerate(lengths):

        def place(token: int, layer: int, start: int = start) -> str:
            return f"{where}, token {start + token}, layer {layer}"

        yield Recording(
            name=f"{group}:{index}.{prompt}",
            group=group,
            domain=f"{domain}:{phase}",
            experts=experts[start : start + length],
            weights=None,
            token_ids=token_ids[start : start + length],
            place=place,
            share_read=share_read,
            ordered=phase != "decode",
        )
        start += length


def _experts(found: Ints, tokens: int, where: str, to_logical: Ints | None, shape: Shape) -> Ints:
    """Logical experts of shape (T, L, k), E in empty slots."""
    k = shape.top_k
    if found.ndim != 3 or found.shape[1] != tokens or found.shape[2] < k:
        raise VarError(f"{where}: topk_ids_of_layer has shape {found.shape}, not (layers, {tokens}, {k} or more)")
    if to_logical is not None and len(to_logical) < len(found):
        raise VarError(
            f"{where}: {len(found)} layers are recorded, but last_physical_to_logical_map has {len(to_logical)}"
        )
    if (found[..., k:] != -1).any():
        raise VarError(f"{where}: more experts a token than models.{shape.model}.top_k, {k}")
    found, layers = found[..., :k], np.arange(len(found))
    if shape.moe_layers is not None:
        layers = _chosen_layers(shape.moe_layers, len(found), where)
    empty, found = found[layers] == -1, found[layers]
    physical = shape.experts if to_logical is None else to_logical.shape[1]
    wrong = (found < -1) | (found >= physical)
    if wrong.any():
        layer, token, _ = (int(place) for place in np.unravel_index(int(np.argmax(wrong)), wrong.shape))
        raise VarError(
            f"{where}, token {token}, layer {layer}: expert {found[wrong][0]} is outside 0 to {physical - 1}"
        )
    if empty.all(axis=(1, 2)).any():
        dense = int(layers[int(np.argmax(empty.all(axis=(1, 2))))])
        raise VarError(
            f"{where}: layer {dense} has no experts; name those that have in models.{shape.model}.moe_layers"
        )
    if to_logical is not None:
        found = np.take_along_axis(to_logical[layers], np.where(empty, 0, found).reshape(len(layers), -1), axis=1)
        found = found.reshape(empty.shape)
    return np.ascontiguousarray(np.where(empty, shape.experts, found).transpose(1, 0, 2))


def _chosen_layers(moe_layers: tuple[int, ...], recorded: int, where: str) -> Ints:
    if max(moe_layers) >= recorded:
        raise VarError(f"{where}: {recorded} layers are recorded, but moe_layers names layer {max(moe_layers)}")
    return np.asarray(moe_layers, dtype=np.int64)
