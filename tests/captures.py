"""Capturing small shards of random tokens, for tests in this process and in others."""

from contextlib import contextmanager

import numpy as np
import pyarrow.parquet as pq
import pytest

from moe_models import VOCABULARY
from var_core.capture import job
from var_core.capture.job import capture_shard
from var_core.capture.outputs import CaptureOutputs
from var_core.config.capture import CaptureConfig
from var_core.config.models import FolderModel
from var_core.corpus.shards import ContentDigest, TokenRows, write_token_shard
from var_core.statistics.tables import KEY_COLUMNS, SCHEMAS

LENGTH = 16
CONFIG = CaptureConfig(batch_sequences=2, checkpoint_tokens=2 * LENGTH)


def write_shard(path, sequences=10, seed=0, tokens=VOCABULARY, length=LENGTH):
    generator = np.random.default_rng(seed)
    ids = generator.integers(tokens, size=(sequences, length), dtype=np.int32)
    document = (generator.random((sequences, length)) < 0.1).cumsum(axis=1) + np.arange(sequences)[:, None] * 100
    rows = [
        TokenRows(domain, 40 + part.astype(np.int32), ids[part], document[part].astype(np.int32))
        for domain, part in zip(("code", "prose"), np.split(np.arange(sequences), 2), strict=True)
    ]
    content = ContentDigest()
    for part in rows:
        content.add(part)
    provenance = {
        "stage": "corpus", "run": "mine/text", "split": "heldout", "shard": 0, "code": "x", "config": {},
        "corpus": {"name": "text", "digest": "c"}, "tokenizer": "t", "sequence_length": length,
        "isolate_documents": True, "tokens": int(ids.size), "content": content.hexdigest(),
    }  # fmt: skip
    write_token_shard(path, length, rows, provenance)
    return path


def capture(shard, model, folder, config=CONFIG, trace=True, model_config=None, seconds=None):
    outputs = CaptureOutputs(folder, "heldout-00000", trace)
    model_config = model_config or FolderModel(source="folder", path=str(model.parent))
    capture_shard(shard, 1, model, model_config, config, outputs, code="code", seconds=seconds)
    return outputs


def contents(outputs):
    return {kind: outputs.path(kind).read_bytes() for kind in outputs.kinds}


def assert_same_up_to_rounding(one, other, shuffled_alike=True):
    """Counts are equal; what is made of floats differs at most by the order of additions."""
    for kind in SCHEMAS:
        a, b = pq.read_table(one.path(kind)), pq.read_table(other.path(kind))
        assert a.select(KEY_COLUMNS[kind]) == b.select(KEY_COLUMNS[kind])
        for name in set(a.column_names) - set(KEY_COLUMNS[kind]):
            if "float" in str(a[name].type) or "double" in str(a[name].type):
                flat = [np.array(t[name].to_pylist(), dtype=float) for t in (a, b)]
                np.testing.assert_allclose(*flat, rtol=1e-5, atol=1e-6)
            elif name != "next_first_shuffled" or shuffled_alike:
                assert a[name].to_pylist() == b[name].to_pylist(), name
    traces = [
        pq.read_table(outputs.path("trace"), columns=["sequence", "position", "experts"]) for outputs in (one, other)
    ]
    assert traces[0] == traces[1]


@contextmanager
def interrupted_at(index):
    """Let captures run until they reach a batch, as if the process ended there."""
    original = job._Job._capture

    def stop(self, batch, recorder, parts):
        if batch.index == index:
            raise InterruptedError
        original(self, batch, recorder, parts)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(InterruptedError):
        patch.setattr(job._Job, "_capture", stop)
        yield
