"""Capturing small shards of random tokens, for tests in this process and in others."""

from contextlib import contextmanager

import numpy as np
import pyarrow.parquet as pq
import pytest

from moe_models import VOCABULARY
from var_core.capture import micro_shard
from var_core.capture.job import capture_shard
from var_core.capture.outputs import CaptureOutputs
from var_core.config.capture import CaptureConfig
from var_core.config.models import FolderModel
from var_core.corpus.shards import ContentDigest, TokenRows, write_token_shard
from var_core.statistics.tables import KEY_COLUMNS, SCHEMAS

LENGTH = 16
CONFIG = CaptureConfig(batch_sequences=2, checkpoint_tokens=2 * LENGTH)


def write_shard(path, sequences=10, seed=0, tokens=VOCABULARY, length=LENGTH, micro_shards=1, part=0, parts=1):
    """Write a shard of so many micro-shards; half of the sequences of each are of one domain, half of another.

    It is one of several equal parts of these sequences and micro-shards.
    """
    generator = np.random.default_rng(seed)
    ids = generator.integers(tokens, size=(sequences, length), dtype=np.int32)
    document = (generator.random((sequences, length)) < 0.1).cumsum(axis=1) + np.arange(sequences)[:, None] * 100
    rows, records = [], []
    content = ContentDigest()
    own_part = slice(part * micro_shards // parts, (part + 1) * micro_shards // parts)
    for places in np.split(np.arange(sequences), micro_shards)[own_part]:
        own = ContentDigest()
        for domain, at in zip(("code", "prose"), np.split(places, 2), strict=True):
            rows.append(TokenRows(domain, 40 + at.astype(np.int32), ids[at], document[at].astype(np.int32)))
            content.add(rows[-1])
            own.add(rows[-1])
        records.append({"first": 40 + int(places[0]), "sequences": len(places), "content": own.hexdigest()})
    provenance = {
        "stage": "corpus", "run": "mine/text", "split": "heldout", "shard": part, "code": "x", "config": {},
        "corpus": {"name": "text", "digest": "c"}, "tokenizer": "t", "sequence_length": length,
        "isolate_documents": True, "tokens": int(ids.size) // parts, "content": content.hexdigest(),
        "micro_shards": records,
    }  # fmt: skip
    write_token_shard(path, length, rows, provenance)
    return path


def capture(shard, model, folder, config=CONFIG, trace=True, model_config=None, seconds=None, shards=1):
    outputs = CaptureOutputs(folder, shard.stem if shards > 1 else "heldout-00000", trace)
    model_config = model_config or FolderModel(source="folder", path=str(model.parent))
    capture_shard(shard, shards, model, model_config, config, outputs, code="code", seconds=seconds)
    return outputs


def unfinished(folder):
    """What is left of captures but for the files of micro-shards, which are kept."""
    state = folder / ".state"
    left = [*state.glob("*"), *state.glob("locks/*")]
    return [path for path in left if path.suffix != ".parquet" and path.name != "locks"]


def contents(outputs):
    return {kind: outputs.path(kind).read_bytes() for kind in outputs.kinds}


def assert_same_up_to_rounding(one, other, shuffled_alike=True, traced=True):
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
    if not traced:
        return
    traces = [
        pq.read_table(outputs.path("trace"), columns=["sequence", "position", "experts"]) for outputs in (one, other)
    ]
    assert traces[0] == traces[1]


@contextmanager
def interrupted_at(index, of_micro_shard=40):
    """Let captures run until they reach a batch of the micro-shard with a first sequence, as if they ended there."""
    original = micro_shard.MicroShardCapture._capture

    def stop(self, batch, recorder, parts):
        if batch.index == index and self._micro_shard.first == of_micro_shard:
            raise InterruptedError
        original(self, batch, recorder, parts)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(InterruptedError):
        patch.setattr(micro_shard.MicroShardCapture, "_capture", stop)
        yield
