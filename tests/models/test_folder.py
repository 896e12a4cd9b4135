import json
import struct
from pathlib import Path

import pytest
import safetensors.torch
import torch

from var_core.errors import VarError
from var_core.models.folder import (
    ModelRecord,
    check_model_folder,
    folder_digest,
    max_positions,
    read_record,
    weight_files,
    write_record,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "mixtral", "max_position_embeddings": 64}')
    (folder / "tokenizer.json").write_text("{}")
    write_weights(folder / "model.safetensors")
    return folder


def write_weights(path: Path, value: float = 1.0) -> None:
    safetensors.torch.save_file({"a": torch.full((4, 3), value), "b": torch.arange(5)}, path)


def test_digest_is_stable_and_sees_every_file_that_matters(folder: Path) -> None:
    digests = [folder_digest(folder), folder_digest(folder)]
    assert digests[0] == digests[1]
    write_weights(folder / "model.safetensors", 1.0000001)  # same size, same header
    digests.append(folder_digest(folder))
    (folder / "config.json").write_text('{"model_type": "mixtral", "max_position_embeddings": 65}')
    digests.append(folder_digest(folder))
    (folder / "tokenizer.json").write_text("{ }")
    digests.append(folder_digest(folder))
    (folder / "modeling_own.py").write_text("pass")
    digests.append(folder_digest(folder))
    assert len(set(digests)) == 5


def test_digest_does_not_see_what_is_not_the_model(folder: Path) -> None:
    before = folder_digest(folder)
    for name in ("training.json", "model.json", "README.md", "training.csv"):
        (folder / name).write_text("{}")
    assert folder_digest(folder) == before


def test_digest_of_a_large_file_reads_blocks_of_it(folder: Path) -> None:
    size = 200 << 20  # a file with holes: nothing of it is on disk but what is written
    header = json.dumps({"a": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    path = folder / "model.safetensors"
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", len(header)) + header)
        stream.truncate(8 + len(header) + size)
    first = folder_digest(folder)

    def changed_at(place: int) -> str:
        with path.open("r+b") as stream:
            stream.seek(place)
            stream.write(b"\1")
        digest = folder_digest(folder)
        with path.open("r+b") as stream:
            stream.seek(place)
            stream.write(b"\0")
        return digest

    assert changed_at(path.stat().st_size - 1) != first
    assert changed_at(5 << 18) == first  # between the first block and the second: stated in the docstring
    assert folder_digest(folder) == first


def test_record_round_trip_and_moving(folder: Path, tmp_path: Path) -> None:
    inside = folder / "model.json"
    write_record(inside, ModelRecord("m", "demo", folder, None, "d"), "code", extra=1)
    assert json.loads(inside.read_text())["path"] == "."
    moved = folder.rename(tmp_path / "moved")
    record = read_record(moved / "model.json")
    assert record.folder.samefile(moved)
    assert (record.name, record.source, record.revision, record.digest) == ("m", "demo", None, "d")
    outside = tmp_path / "results" / "model.json"
    write_record(outside, ModelRecord("m", "hub", moved, "0" * 40, "d"), "code")
    assert Path(json.loads(outside.read_text())["path"]).is_absolute()
    assert read_record(outside).folder == moved


@pytest.mark.parametrize("content", ['{"model": "m"}', "[]", "{"])
def test_broken_record_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "model.json"
    path.write_text(content)
    with pytest.raises(VarError, match=r"model\.json"):
        read_record(path)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"max_position_embeddings": 64}, 64),
        ({"text_config": {"max_position_embeddings": 32}}, 32),
        ({"max_position_embeddings": 64, "text_config": {"max_position_embeddings": 32}}, 64),
        ({"text_config": None}, None),
        ({}, None),
    ],
)
def test_max_positions(tmp_path: Path, config: dict[str, object], expected: int | None) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert max_positions(tmp_path) == expected


def test_what_is_missing_is_named(folder: Path, tmp_path: Path) -> None:
    check_model_folder(folder)
    with pytest.raises(VarError, match="no such folder"):
        check_model_folder(tmp_path / "nowhere")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(VarError, match="no tokenizer"):
        check_model_folder(folder)
    (folder / "config.json").write_text("[]")
    with pytest.raises(VarError, match=r"config\.json.*not a JSON object"):
        check_model_folder(folder)
    (folder / "config.json").unlink()
    with pytest.raises(VarError, match=r"no config\.json"):
        check_model_folder(folder)


def test_pickled_weights_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(VarError, match="holds no weights"):
        weight_files(folder)
    (folder / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(VarError, match=r"pickled weights \(pytorch_model\.bin\).*safetensors"):
        weight_files(folder)


def test_index_names_the_weight_files(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "part-1.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "part-1.safetensors", "b": "part-2.safetensors"}}))
    with pytest.raises(VarError, match=r"1 of 2 weight files.*part-2\.safetensors"):
        weight_files(folder)
    write_weights(folder / "part-2.safetensors")
    assert [path.name for path in weight_files(folder)] == ["part-1.safetensors", "part-2.safetensors"]
    for broken in ("{}", '{"weight_map": []}', '{"weight_map": {}}', '{"weight_map": {"a": "../x.safetensors"}}', "{"):
        index.write_text(broken)
        with pytest.raises(VarError, match="index"):
            weight_files(folder)


def test_truncated_weights_are_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    for content, message in ((whole[:-1], "its header says"), (whole[:20], "not a safetensors"), (b"", "not a safet")):
        path.write_bytes(content)
        with pytest.raises(VarError, match=message):
            folder_digest(folder)
