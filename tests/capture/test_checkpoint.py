import numpy as np
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


def test_no_flipped_bit_goes_unseen(tmp_path):
    """Progress and tensors are what one of the two generations held, whichever bit of the younger one turns."""
    state = folder(tmp_path)
    save(state, 3)
    save(state, 6)
    youngest = state.part("checkpoint-b.safetensors")
    content = youngest.read_bytes()
    generator = np.random.default_rng(5)
    header = int.from_bytes(content[:8], "little")  # the record and the tensors' types and shapes are in there
    places = [*range(8), *generator.integers(8, 8 + header, 150), *generator.integers(8 + header, len(content), 50)]
    earlier = 0
    for place in places:
        flipped = bytes([content[place] ^ (1 << generator.integers(8))])
        youngest.write_bytes(content[:place] + flipped + content[place + 1 :])
        progress, tensors = folder(tmp_path).load()
        assert progress.parts == {name: file_digest(state.part(name)) for name in progress.parts}
        assert list(progress.parts) == [f"trace-{progress.batches:08d}.parquet"] and not progress.nonfinite
        assert all(torch.equal(tensors[name], tensor + progress.batches) for name, tensor in TENSORS.items())
        earlier += progress.batches == 3
    assert earlier > 0.9 * len(places), "some bits carry nothing, most do"


def test_a_foreign_generation_gives_way_to_the_one_before(tmp_path, caplog):
    save(folder(tmp_path), 3)
    other = folder(tmp_path / "other", "other plan")
    other.folder.parent.mkdir()
    save(other, 5)
    save(other, 8)
    other.part("checkpoint-b.safetensors").rename(tmp_path / "state" / "checkpoint-b.safetensors")
    assert folder(tmp_path).load()[0].batches == 3
    assert "checkpoint-b.safetensors: written under another plan; using an earlier state" in caplog.text


def test_a_damaged_checkpoint_that_only_looks_foreign_is_damaged(tmp_path, caplog):
    state = folder(tmp_path)
    save(state, 3)
    only = state.part("checkpoint-a.safetensors")
    only.write_bytes(only.read_bytes().replace(b'\\"plan\\": \\"plan', b'\\"plan\\": \\"plaN'))
    assert folder(tmp_path).load() is None
    assert "its checksum does not match" in caplog.text


def test_when_both_are_damaged_the_shard_begins_anew(tmp_path, caplog):
    state = folder(tmp_path)
    save(state, 3)
    save(state, 6)
    for name in "ab":
        state.part(f"checkpoint-{name}.safetensors").write_bytes(b"\0" * 100)
    assert folder(tmp_path).load() is None
    assert caplog.text.count("using an earlier state") == 2


def test_what_a_killed_writer_left_is_removed(tmp_path):
    state = folder(tmp_path)
    save(state, 3)
    left = state.part(".checkpoint-b.safetensors.123.tmp")
    left.write_bytes(b"half")
    assert folder(tmp_path).load()[0].batches == 3
    assert not left.exists()


def test_nothing_is_written_once_the_shard_is_another_s(tmp_path):
    def check():
        raise VarError("taken over")

    save(folder(tmp_path), 3)
    state = CheckpointFolder(tmp_path / "state", "plan", check)
    before = {path.name: path.read_bytes() for path in state.folder.iterdir()}
    with pytest.raises(VarError, match="taken over"):
        state.save(Progress(4), TENSORS)
    with pytest.raises(VarError, match="taken over"):
        state.remove()
    assert {path.name: path.read_bytes() for path in state.folder.iterdir()} == before


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
