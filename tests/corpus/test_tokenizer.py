import hashlib
import json
import os
import subprocess
import sys

import pytest
from transformers import AutoTokenizer

from var_core.config.corpus import FilesCorpus, Splits
from var_core.corpus.documents import read_documents, write_documents
from var_core.corpus.tokenizer import END_OF_TEXT, train_tokenizer
from var_core.errors import VarError


def corpus(folder, texts, **splits):
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    config = FilesCorpus(source="files", format="jsonl", domains={"a": (str(path),)}, splits=Splits(**splits))
    write_documents("mine", config, folder / "out", "code")
    return folder / "out" / "documents.parquet"


def test_the_folder_loads_as_a_fast_tokenizer_of_the_size_asked_for(tokenizer_folder):
    assert {file.name for file in tokenizer_folder.iterdir()} == {"tokenizer.json", "tokenizer_config.json"}
    # The architecture's own tokenizer class must not take over when a model's config lies beside it.
    (tokenizer_folder / "config.json").write_text('{"model_type": "mixtral"}')
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    (tokenizer_folder / "config.json").unlink()
    assert tokenizer.is_fast
    assert len(tokenizer) == 400
    assert tokenizer.bos_token == tokenizer.eos_token == END_OF_TEXT
    assert tokenizer.all_special_ids == [tokenizer.convert_tokens_to_ids(END_OF_TEXT)]


@pytest.mark.parametrize("text", ["def f(x):\n\treturn  x  \n", "Été \U0001f40d\x00\ufeff", " a , b 's", "\r\n"])
def test_any_text_survives_encoding_and_decoding(tokenizer_folder, text):
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_training_again_gives_the_same_bytes_also_in_another_process_with_threads(
    tmp_path, small_documents, tokenizer_folder
):
    code = (
        "import sys, pathlib; from var_core.corpus.tokenizer import train_tokenizer;"
        "train_tokenizer(pathlib.Path(sys.argv[1]), 400, pathlib.Path(sys.argv[2]))"
    )
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "true", "PYTHONHASHSEED": "7"}
    subprocess.run([sys.executable, "-c", code, small_documents, tmp_path / "again"], check=True, env=environment)
    for file in tokenizer_folder.iterdir():
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes()


def test_only_the_train_split_is_learned_from(tmp_path):
    words = [
        hashlib.sha256(bytes([i])).hexdigest()[:12].translate(str.maketrans("0123456789", "ghijklmnop"))
        for i in range(60)
    ]
    documents = corpus(tmp_path, [f" {word}" * 20 for word in words])
    train_tokenizer(documents, 2000, tmp_path / "tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")

    def known(split):
        texts = [text for batch in read_documents(documents, split) for text in batch["text"].to_pylist()]
        assert len(texts) > 5
        return [len(tokenizer(text, add_special_tokens=False)["input_ids"]) == 20 for text in texts]

    # The word of a document read in training has become one token; that of another document cannot have.
    assert all(known("train"))
    assert not any(known("capture"))
    assert not any(known("heldout"))


def test_too_little_text_gives_a_smaller_vocabulary_and_a_warning(tmp_path, caplog):
    documents = corpus(tmp_path, [f"text {i}" for i in range(60)])
    train_tokenizer(documents, 5000, tmp_path / "tokenizer")
    size = len(AutoTokenizer.from_pretrained(tmp_path / "tokenizer"))
    assert 257 < size < 5000
    assert f"yields {size} tokens, not 5000" in caplog.text


def test_an_empty_train_split_is_said(tmp_path):
    documents = corpus(
        tmp_path, [f"text {i}" for i in range(60)], train=0, capture=0.3, calibration=0.2, tuning=0.2, heldout=0.3
    )
    with pytest.raises(VarError, match=r"corpora\.mine\.splits\.train: no document"):
        train_tokenizer(documents, 300, tmp_path / "tokenizer")
