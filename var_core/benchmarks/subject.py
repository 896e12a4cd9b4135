"""What capture is timed on: the demo model and real text as packed sequences."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from var_core.config.corpus import PythonStdlibCorpus
from var_core.config.models import DemoModel
from var_core.corpus.documents import write_documents
from var_core.corpus.packing import pack
from var_core.corpus.shards import position_ids
from var_core.corpus.tokenise import DocumentTokenizer, tokenised_documents
from var_core.corpus.tokenizer import train_tokenizer
from var_core.models.loading import load_model
from var_core.models.packed import Sequences
from var_core.models.training import build_model

SEQUENCES, LENGTH = 8, 256
"""Sequences a batch, and tokens a sequence."""


@dataclass(frozen=True)
class Input:
    """A batch of packed sequences on the device: token ids, documents and positions, int64 [S, T]."""

    token_ids: torch.Tensor
    document: torch.Tensor
    positions: torch.Tensor

    @classmethod
    def of(cls, token_ids: NDArray[Any], document: NDArray[Any], device: torch.device) -> "Input":
        """Positions restart with every document, as in a capture job by default."""
        parts = (token_ids.astype(np.int64), document.astype(np.int64), position_ids(document))
        return cls(*(torch.from_numpy(part).to(device) for part in parts))


@dataclass(frozen=True)
class Subject:
    """A causal model (its base model within it) and batches of text.

    Attributes
    ----------
    causal : transformers.PreTrainedModel
        In evaluation mode; ``causal.model`` is the base model.
    inputs : tuple of Input
    about : dict
        What they are, for the report.
    """

    causal: Any
    inputs: tuple[Input, ...]
    about: dict[str, Any]

    @property
    def vocabulary(self) -> int:
        """Token ids that the model has embeddings for."""
        return int(self.causal.get_input_embeddings().weight.shape[0])


def demo_subject(results: Path, batches: int, device: torch.device) -> Subject:
    """The demo model of a finished run, or one of the same shape with random weights.

    Parameters
    ----------
    results : Path
        Folder of the run's results.
    batches : int
        Batches of :data:`SEQUENCES` x :data:`LENGTH` tokens.
    device : torch.device
        Where the model goes.
    """
    record = results / "models" / "demo-moe" / "model.json"
    documents = results / "corpora" / "python-stdlib" / "documents.parquet"
    if record.is_file() and documents.is_file():
        loaded = load_model(record, head=True, dtype="float32", device=str(device))
        inputs = _inputs(documents, loaded.folder, batches, device)
        return Subject(loaded.model, inputs, _about(loaded.model, "the demo model as trained", batches))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        config = DemoModel(source="demo", corpus="python-stdlib")
        corpus = PythonStdlibCorpus(source="python-stdlib", domains=("docstrings",))
        write_documents(config.corpus, corpus, folder, "benchmark")
        train_tokenizer(folder / "documents.parquet", config.vocabulary, folder / "tokenizer")
        inputs = _inputs(folder / "documents.parquet", folder / "tokenizer", batches, device)
    causal = build_model(config, config.vocabulary, 0).to(device).eval().requires_grad_(False)
    return Subject(causal, inputs, _about(causal, "the demo model's shape with random weights", batches))


def _about(causal: Any, model: str, batches: int) -> dict[str, Any]:
    return {
        "model": model,
        "parameters": causal.num_parameters(),
        "dtype": str(causal.dtype).removeprefix("torch."),
        "sequences": SEQUENCES,
        "length": LENGTH,
        "batches": batches,
        "text": "held-out documents of the Python standard library, packed",
    }


def _inputs(documents: Path, tokenizer: Path, batches: int, device: torch.device) -> tuple[Input, ...]:
    with tempfile.TemporaryDirectory() as scratch:
        text = tokenised_documents(documents, "heldout", DocumentTokenizer(tokenizer))
        sequences = Sequences(pack(text, LENGTH, Path(scratch)))
        token_ids, document = sequences.rows(sequences.spread(batches * SEQUENCES))
    cut = [slice(start, start + SEQUENCES) for start in range(0, len(token_ids), SEQUENCES)]
    return tuple(Input.of(token_ids[rows], document[rows], device) for rows in cut)
