"""Small real inputs: a corpus of the language reference and its tokenizer."""

import json
import os
from pathlib import Path
from pydoc_data.topics import topics

import pytest
import torch

from var_core.config.corpus import FilesCorpus, Splits
from var_core.corpus.documents import write_documents
from var_core.corpus.tokenizer import train_tokenizer

VOCABULARY = 384


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Two threads on a busy machine wait for each other; tests are small."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


@pytest.fixture(scope="session")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``documents.parquet`` of 80 topics of Python's language reference."""
    folder = tmp_path_factory.mktemp("corpus")
    lines = [json.dumps({"text": text[:1500], "name": name}) for name, text in sorted(topics.items())[:80]]
    (folder / "topics.jsonl").write_text("\n".join(lines), encoding="utf-8")
    config = FilesCorpus(
        source="files",
        format="jsonl",
        domains={"reference": (str(folder / "topics.jsonl"),)},
        name_field="name",
        splits=Splits(train=0.6, capture=0.04, calibration=0.04, tuning=0.04, heldout=0.28),
    )
    write_documents("topics", config, folder, "code")
    return folder / "documents.parquet"


@pytest.fixture(scope="session")
def tokenizer_folder(documents: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(documents, VOCABULARY, folder)
    return folder
