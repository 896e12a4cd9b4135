"""What vLLM returns with ``enable_return_routed_experts``, saved by NumPy: one file a request.

A ``.npz`` holds ``routed_experts`` of shape (tokens, layers, k) and, as far as they were saved, ``prompt_token_ids``,
``token_ids`` and (newer versions return them apart) ``prompt_routed_experts``. A ``.npy`` holds ``routed_experts``
alone. Where ``routed_experts`` is of the whole request, its first rows are the prompt's, as many as there are
``prompt_token_ids``; the last token that was generated never went through the model and has no row. Weights and
logits are not recorded.
"""

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from var_core.errors import VarError
from var_core.traces.importers.recording import Ints, Recording, Shape

_ARRAYS = ("routed_experts", "prompt_routed_experts", "prompt_token_ids", "token_ids")


def read_vllm(files: Sequence[tuple[Path, str]], domain: str, shape: Shape) -> Iterator[Recording]:
    """Yield a recording a request and phase; ``{domain}:prefill`` and ``:decode`` where the file tells them apart.

    Parameters
    ----------
    files : sequence of (Path, str)
        Files of the domain with their short names.
    domain : str
    shape : Shape

    Raises
    ------
    VarError
        If a file is not what it should be.
    """
    for number, (path, name) in enumerate(files):
        group = f"{domain}/{name}"
        for phase, experts, token_ids, first in _parts(_arrays(path), path, shape):

            def place(token: int, layer: int, path: Path = path, first: int = first) -> str:
                return f"{path}: row {first + token}, layer {layer}"

            yield Recording(
                name=f"{group}:{phase}" if phase else group,
                group=group,
                domain=f"{domain}:{phase}" if phase else domain,
                experts=experts,
                weights=None,
                token_ids=token_ids,
                place=place,
                share_read=(number + 1) / len(files),
            )


def _arrays(path: Path) -> dict[str, NDArray[np.int64]]:
    """Read the arrays that are used; pickled objects are refused."""
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            found = {"routed_experts": loaded}
        else:
            with loaded:
                found = {name: loaded[name] for name in _ARRAYS if name in loaded}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise VarError(f"{path}: not readable as .npz or .npy ({str(error).splitlines()[0]})") from None
    if "routed_experts" not in found:
        raise VarError(f"{path}: holds no array routed_experts")
    for name, array in found.items():
        if not np.issubdtype(array.dtype, np.integer):
            raise VarError(f"{path}: {name} holds {array.dtype}, not whole numbers")
        if array.ndim != (3 if name.endswith("experts") else 1):
            raise VarError(f"{path}: {name} has shape {array.shape}")
    return {name: array.astype(np.int64) for name, array in found.items()}


def _parts(arrays: Mapping[str, Ints], path: Path, shape: Shape) -> Iterator[tuple[str | None, Ints, Ints | None, int]]:
    """Tell prompt and generated tokens apart: (phase, experts, token ids, number of the first row)."""
    experts = _layers(arrays["routed_experts"], path, shape)
    prompt_ids, ids = arrays.get("prompt_token_ids"), arrays.get("token_ids")
    if "prompt_routed_experts" in arrays:
        prompt = _layers(arrays["prompt_routed_experts"], path, shape)
        if prompt_ids is not None and len(prompt) != len(prompt_ids):
            raise VarError(
                f"{path}: {len(prompt)} rows of prompt_routed_experts, but {len(prompt_ids)} prompt_token_ids"
            )
    elif prompt_ids is not None:
        if len(experts) < len(prompt_ids):
            raise VarError(f"{path}: {len(experts)} rows of routed_experts, but {len(prompt_ids)} prompt_token_ids")
        prompt, experts = experts[: len(prompt_ids)], experts[len(prompt_ids) :]
    else:
        yield None, experts, None, 0
        return
    if ids is not None and not len(ids) - 1 <= len(experts) <= len(ids):
        raise VarError(f"{path}: {len(experts)} rows of generated tokens, but {len(ids)} token_ids")
    # A half with ids and a half without would be two kinds of recording.
    known = prompt_ids is not None and (ids is not None or not len(experts))
    first = 0 if "prompt_routed_experts" in arrays else len(prompt)
    if len(prompt):
        yield "prefill", prompt, prompt_ids if known else None, 0
    if len(experts):
        yield "decode", experts, ids[: len(experts)] if known and ids is not None else None, first


def _layers(experts: Ints, path: Path, shape: Shape) -> Ints:
    """Choose the layers with experts, and check what E and k can tell."""
    if shape.moe_layers is not None:
        if experts.shape[1] <= max(shape.moe_layers):
            raise VarError(
                f"{path}: {experts.shape[1]} layers are recorded, but moe_layers names {max(shape.moe_layers)}"
            )
        experts = experts[:, list(shape.moe_layers)]
    if experts.shape[2] != shape.top_k:
        raise VarError(f"{path}: {experts.shape[2]} experts a token, but models.{shape.model}.top_k is {shape.top_k}")
    wrong = (experts < 0) | (experts >= shape.experts)
    if wrong.any():
        row, layer, _ = (int(place) for place in np.unravel_index(int(np.argmax(wrong)), wrong.shape))
        raise VarError(
            f"{path}: row {row}, layer {layer}: expert {experts[wrong][0]} is outside 0 to {shape.experts - 1} "
            f"(models.{shape.model}.experts is {shape.experts})"
        )
    if shape.top_k > 1 and len(experts):
        dense = (experts == 0).all(axis=(0, 2))
        if dense.any():
            raise VarError(
                f"{path}: layer {int(np.argmax(dense))} is all zeros, as dense layers are; name the layers with "
                f"experts in models.{shape.model}.moe_layers"
            )
    return experts
