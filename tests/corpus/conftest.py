"""A small corpus of real text and a tokenizer trained on it."""

import inspect
import json
import textwrap
from pathlib import Path

import pytest

from var_core.config.corpus import FilesCorpus, Splits
from var_core.corpus.documents import write_documents
from var_core.corpus.tokenizer import train_tokenizer

CORPUS = "small"


@pytest.fixture(scope="session")
def small_documents(tmp_path_factory) -> Path:
    """``documents.parquet`` of two domains, 60 documents each, over all splits."""
    folder = tmp_path_factory.mktemp("small-corpus")
    sources = {"code": inspect.getsource(textwrap), "prose": inspect.getdoc(json) * 5}
    for domain, text in sources.items():
        size = len(text) // 60
        rows = [{"text": text[i * size : (i + 1) * size] + f" {domain} {i}"} for i in range(60)]
        (folder / f"{domain}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    config = FilesCorpus(
        source="files",
        format="jsonl",
        domains={domain: (str(folder / f"{domain}.jsonl"),) for domain in sources},
        splits=Splits(train=0.3, capture=0.25, calibration=0.1, tuning=0.1, heldout=0.25),
    )
    write_documents(CORPUS, config, folder / "out", "code")
    return folder / "out" / "documents.parquet"


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory, small_documents) -> Path:
    """Folder of a tokenizer trained on the small corpus."""
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(small_documents, 400, folder)
    return folder
