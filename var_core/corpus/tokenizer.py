"""Training a byte-level BPE tokenizer on a corpus's train split."""

import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from var_core.corpus.documents import read_documents
from var_core.errors import VarError
from var_core.parquet import read_provenance

END_OF_TEXT = "<|endoftext|>"
"""The one special token, at the start of every document (BOS) and at the end of a generated one (EOS)."""

_logger = logging.getLogger("var_core.corpus")


def train_tokenizer(documents: Path, vocabulary: int, output: Path) -> None:
    """Train a byte-level BPE tokenizer and save it as a Hugging Face tokenizer folder.

    The same documents give the same bytes. A corpus with too little text for the vocabulary gives a smaller
    one: use the length of the tokenizer, not `vocabulary`, for the model's embedding.

    Parameters
    ----------
    documents : Path
        A ``documents.parquet``, of which the train split is read.
    vocabulary : int
        Number of tokens, with the 256 bytes and the special token.
    output : Path
        Folder for ``tokenizer.json`` and ``tokenizer_config.json``; made if it is missing.

    Raises
    ------
    VarError
        If the train split is empty.
    """
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_train_texts(documents), trainer)
    if tokenizer.get_vocab_size() < vocabulary:
        _logger.warning("the train split yields %d tokens, not %d", tokenizer.get_vocab_size(), vocabulary)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        clean_up_tokenization_spaces=False,
    )
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output, prefix=".tokenizer-") as scratch:
        fast.save_pretrained(scratch)
        for file in sorted(Path(scratch).iterdir()):
            file.replace(output / file.name)


def _train_texts(documents: Path) -> Iterator[list[str]]:
    batches = read_documents(documents, "train")
    empty = True
    for batch in batches:
        empty = False
        yield batch["text"].to_pylist()
    if empty:
        corpus = read_provenance(documents)["corpus"]
        raise VarError(f"corpora.{corpus}.splits.train: no document to train a tokenizer on; raise this share")
