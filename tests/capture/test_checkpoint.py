import pytest
import torch

from var_core.capture.checkpoint import CheckpointFolder, Progress
from var_core.errors import VarError
from var_core.files import file_digest

TENSORS = {"n": torch.arange(12).view(3, 4), "mean": torch.rand(2, 5, dtype=torch.float64)}


def folder(path, digest="plan"):
    return CheckpointFolder(path / "state", digest)


def save(state, batches, part=b"rows"):
    state.folder.mkdir(exist_ok=True)
    name = f"trace-{batches:08d}.parquet"
    state.part(name).write_bytes(part)
    progress = Progress(batches, {name: file_digest(state.part(name))})
    state.save(progress, {name: tensor + batches for name, tensor in TENSORS.items()})


def test_the_youngest_is_loaded_whole(tmp_path):
    state = folder(tmp_path)
    for batches in (3, 6, 9):
        save(state, batches)
    progress, tensors = folder(tmp_path).load()
    assert progress.batches == 9 and list(progress.parts) == ["trace-00000009.parquet"]
    assert all(torch.equal(tensors[name], tensor + 9) for name, tensor in TENSORS.items())
    assert len(list(state.folder.glob("checkpoint-*"))) == 2


def test_nothing_saved_is_nothing_loaded(tmp_path):
    assert folder(tmp_path).load() is None


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty", "part"])
def test_a_damaged_generation_gives_way_to_the_one_before(tmp_path, damage, caplog):
    state = folder(tmp_path)
    save(state, 3)
    save(state, 6)
    youngest = state.part("checkpoint-b.safetensors")
    content = youngest.read_bytes()
    if damage == "truncate":
        youngest.write_bytes(content[:-20])
    elif damage == "flip":
        youngest.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    elif damage == "empty":
        youngest.write_bytes(b"")
    else:
        state.part("trace-00000006.parquet").write_bytes(b"other rows")
    progress, _ = folder(tmp_path).load()
    assert progress.batches == 3
    assert "using an earlier state" in caplog.text and "checkpoint-b.safetensors" in caplog.text


def test_saving_after_a_damaged_generation_keeps_the_sound_one(tmp_path):
    state = folder(tmp_path)
    save(state, 3)
    save(state, 6)
    state.part("checkpoint-b.safetensors").write_bytes(b"")
    again = folder(tmp_path)
    again.load()
    save(again, 6)
    assert folder(tmp_path).load()[0].batches == 6
    again.part("checkpoint-b.safetensors").write_bytes(b"")
    assert folder(tmp_path).load()[0].batches == 3


def test_a_checkpoint_of_another_plan_is_refused(tmp_path):
    save(folder(tmp_path), 3)
    with pytest.raises(VarError, match=r"checkpoint-a\.safetensors: this checkpoint was written under another plan"):
        folder(tmp_path, "other").load()


def test_removed_state_is_gone(tmp_path):
    state = folder(tmp_path)
    save(state, 3)
    state.remove()
    assert not state.folder.exists() and folder(tmp_path).load() is None
