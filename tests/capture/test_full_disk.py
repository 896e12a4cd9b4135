"""A disk without room, in a real process.

Mounting a small file system takes rights that tests do not have. The limit on the size of the files that a process may
write (``RLIMIT_FSIZE``) stops the same calls in the same places, with EFBIG instead of ENOSPC.
"""

import re

from capture_processes import CaptureProcesses
from captures import CONFIG, LENGTH, capture, contents, write_shard


def outcome(processes, folder, log, largest_file, **config):
    """The last line that a capture logs in a process that can write files of at most so many bytes."""
    status = processes.wait(processes.start(folder, log, largest_file=largest_file, **config))
    lines = log.read_text().strip().splitlines()
    assert status == (1 if lines and lines[-1].startswith("error: ") else 0), lines
    return lines[-1] if status else "done"


def test_a_full_disk_leaves_the_last_good_state(tmp_path, model, parent, caplog):
    # Many sequences a batch: the trace, which is written last, is then larger than a checkpoint.
    shard = write_shard(tmp_path / "corpus.parquet", sequences=240)
    config = CONFIG.model_copy(update={"batch_sequences": 20, "checkpoint_tokens": 20 * LENGTH})
    whole = contents(capture(shard, model, tmp_path / "whole", config))
    out, log = tmp_path / "out", tmp_path / "log"
    messages = []
    processes = CaptureProcesses(parent, shard, model)
    for largest_file in (100, 10_000, 45_000, len(whole["trace"]) - 1):
        messages.append(
            outcome(processes, out, log, largest_file, **config.model_dump(exclude={"shards", "micro_shards"}))
        )
        held = [path for path in out.rglob("*") if path.is_file()]
        assert not [path for path in held if path.name.endswith(".tmp") or ".lock" in path.name]
        for path in out.glob("*.parquet"):
            assert path.read_bytes() == whole[path.name.split(".")[1]], "a final file is whole or absent"
    assert all(re.fullmatch(r"error: \S+: no room to write \S+ \(File too large\); free space .+", m) for m in messages)
    assert "checkpoint-a.safetensors" in messages[2] and "heldout-00000.trace.parquet" in messages[3], messages
    caplog.set_level("INFO")
    assert contents(capture(shard, model, out, config)) == whole
    assert "0 of 1 micro-shards to capture" in caplog.text, "all that was captured before the disk was full is kept"
