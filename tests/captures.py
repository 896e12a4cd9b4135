"""Capturing small shards of random tokens, for tests in this process and in others."""

import numpy as np

from moe_models import VOCABULARY
from var_core.capture.job import capture_shard
from var_core.capture.outputs import CaptureOutputs
from var_core.config.capture import CaptureConfig
from var_core.config.models import FolderModel
from var_core.corpus.shards import ContentDigest, TokenRows, write_token_shard

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
