"""ESFT score logs: one text file a layer, one line a sequence.

A line holds the experts of all tokens one after another, k a token, separated by tabs; two tabs; and their weights
in the same way. The same line of every file is the same sequence. The files are called ``expert_weights_{n}.txt``, n
rising with the layers that have experts. They lie loose or in an archive (.tar, .tar.gz, .tar.xz).
"""

import re
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import zip_longest
from pathlib import Path

import numpy as np

from var_core.errors import VarError
from var_core.traces.importers.recording import Recording, Shape

_FILE_NAME = re.compile(r"expert_weights_(\d+)\.txt")


def read_esft(files: Sequence[tuple[Path, str]], domain: str, shape: Shape) -> Iterator[Recording]:
    """Yield a recording a line; archives one after another, then the loose files of each folder.

    Parameters
    ----------
    files : sequence of (Path, str)
        Files of the domain with their short names.
    domain : str
    shape : Shape

    Raises
    ------
    VarError
        If a file is called otherwise, files differ in their lines, or a line is not what it should be.
    """
    loose: dict[str, dict[int, Path]] = {}
    for path, name in files:
        number = _FILE_NAME.fullmatch(path.name)
        if number:
            loose.setdefault(str(Path(name).parent), {})[int(number[1])] = path
        elif tarfile.is_tarfile(path):
            with tempfile.TemporaryDirectory(prefix="var-esft-") as scratch:
                layers = _extracted(path, Path(scratch))
                yield from _lines(layers, {n: f"{path}:{layers[n].name}" for n in layers}, name, domain, shape)
        else:
            raise VarError(f"{path}: neither expert_weights_<layer>.txt nor an archive of such files")
    for folder, layers in loose.items():
        yield from _lines(layers, {n: str(path) for n, path in layers.items()}, folder, domain, shape)


def _extracted(archive: Path, folder: Path) -> dict[int, Path]:
    """Unpack the logs of an archive, whatever folder they lie in there."""
    layers: dict[int, Path] = {}
    try:
        with tarfile.open(archive) as members:
            for member in members:
                number = _FILE_NAME.fullmatch(Path(member.name).name)
                content = members.extractfile(member) if number and member.isfile() else None
                if number is None or content is None:
                    continue
                if int(number[1]) in layers:
                    raise VarError(f"{archive}: holds {Path(member.name).name} twice; give one archive a recording")
                layers[int(number[1])] = folder / Path(member.name).name
                with layers[int(number[1])].open("wb") as copy:
                    while chunk := content.read(1 << 20):
                        copy.write(chunk)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise VarError(f"{archive}: cannot be unpacked ({str(error).splitlines()[0]}); replace the file") from None
    if not layers:
        raise VarError(f"{archive}: holds no expert_weights_<layer>.txt")
    return layers


def _lines(layers: dict[int, Path], shown: dict[int, str], name: str, domain: str, shape: Shape) -> Iterator[Recording]:
    """Read the files of all layers in step."""
    numbers = sorted(layers)
    missing = sorted(set(range(numbers[0], numbers[-1] + 1)) - set(numbers))
    if missing:
        raise VarError(f"{shown[numbers[0]]}: expert_weights_{missing[0]}.txt is missing beside it")
    size = max(layers[numbers[0]].stat().st_size, 1)
    with ExitStack() as stack:
        streams = [stack.enter_context(layers[number].open("rb")) for number in numbers]
        read = 0
        for line, texts in enumerate(zip_longest(*streams), start=1):
            ended = [shown[n] for n, text in zip(numbers, texts, strict=True) if text is None]
            if ended:
                raise VarError(f"{ended[0]}: ends before line {line}, which other layers have")
            read += len(texts[0])
            parsed = [_parsed(text, f"{shown[n]}: line {line}", shape) for n, text in zip(numbers, texts, strict=True)]
            lengths = [len(experts) for experts, _ in parsed]
            if min(lengths) < max(lengths):
                odd = numbers[int(np.argmax(np.asarray(lengths) != lengths[0]))]
                raise VarError(
                    f"{shown[odd]}: line {line}: {lengths[numbers.index(odd)]} tokens, but {lengths[0]} in layer "
                    f"{numbers[0]}"
                )

            def place(token: int, layer: int, line: int = line) -> str:
                return f"{shown[numbers[layer]]}: line {line}, token {token + 1}"

            title = f"{domain}/{name}:{line}"
            yield Recording(
                name=title,
                group=title,
                domain=domain,
                experts=np.stack([experts for experts, _ in parsed], axis=1),
                weights=np.stack([weights for _, weights in parsed], axis=1),
                token_ids=None,
                place=place,
                share_read=min(read / size, 1.0),
            )


def _parsed(line: bytes, place: str, shape: Shape) -> tuple[np.ndarray, np.ndarray]:
    """Experts and weights of a line, each of shape (T, k)."""
    halves = line.strip().split(b"\t\t")
    if len(halves) != 2:
        raise VarError(f"{place}: must hold experts, two tabs, and weights")
    texts = [half.strip().split(b"\t") for half in halves]
    if len(texts[0]) != len(texts[1]):
        raise VarError(f"{place}: {len(texts[0])} experts, but {len(texts[1])} weights")
    if len(texts[0]) % shape.top_k:
        raise VarError(f"{place}: {len(texts[0])} experts are no multiple of models.{shape.model}.top_k, {shape.top_k}")
    try:
        experts, weights = np.array(texts[0]).astype(np.int64), np.array(texts[1]).astype(np.float32)
    except ValueError as error:
        raise VarError(f"{place}: {error}") from None
    if len(experts) and experts.max() >= shape.experts:
        # E itself would pass for an empty slot, which these logs do not have.
        token = int(np.argmax(experts >= shape.experts)) // shape.top_k
        raise VarError(
            f"{place}, token {token + 1}: expert {experts.max()} is outside 0 to {shape.experts - 1} "
            f"(models.{shape.model}.experts is {shape.experts})"
        )
    return experts.reshape(-1, shape.top_k), weights.reshape(-1, shape.top_k)
