"""From text to token ids, with a model's own fast tokenizer."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from var_core.config.corpus import SplitName
from var_core.corpus.documents import read_documents
from var_core.errors import VarError
from var_core.files import digest_of

Boundary = Literal["bos", "eos", "none"]


class TokenBatch(NamedTuple):
    """Some documents of one domain as tokens, one after another.

    Attributes
    ----------
    domain : str
    tokens : ndarray of int32, shape (tokens,)
    documents : ndarray of int32, shape (documents,)
        Numbers of the documents.
    lengths : ndarray of int64, shape (documents,)
        Tokens of each document.
    """

    domain: str
    tokens: NDArray[np.int32]
    documents: NDArray[np.int32]
    lengths: NDArray[np.int64]


class DocumentTokenizer:
    """A fast tokenizer set up for whole documents: nothing cut off, nothing filled up, one boundary token each.

    The boundary token is BOS before a document; if the tokenizer has no BOS, EOS after it; else none. The
    tokenizer's own template of special tokens is not applied, so that there is never a second one. The name
    of a special token that stands in a text is text.

    Parameters
    ----------
    folder : Path
        Folder with the tokenizer's files.

    Attributes
    ----------
    tokenizer : transformers.PreTrainedTokenizerFast
    boundary : {"bos", "eos", "none"}
    boundary_id : int or None
    digest : str
        SHA-256 of all that decides about the tokens.

    Raises
    ------
    VarError
        If there is no tokenizer in the folder, or only a slow one.
    """

    def __init__(self, folder: Path) -> None:
        self.tokenizer = _loaded(folder)
        self._backend = self.tokenizer.backend_tokenizer
        self._backend.no_truncation()
        self._backend.no_padding()
        self.boundary: Boundary = "none"
        self.boundary_id: int | None = None
        if self.tokenizer.bos_token_id is not None:
            self.boundary, self.boundary_id = "bos", int(self.tokenizer.bos_token_id)
        elif self.tokenizer.eos_token_id is not None:
            self.boundary, self.boundary_id = "eos", int(self.tokenizer.eos_token_id)
        self.digest = digest_of([self._backend.to_str(), self.boundary, self.boundary_id])
        self._backend.encode_special_tokens = True

    def special_tokens(self) -> dict[str, int]:
        """Return every special token with its id."""
        added = self.tokenizer.added_tokens_decoder
        special = {str(token): int(id_) for id_, token in added.items() if token.special}
        named = zip(self.tokenizer.all_special_tokens, self.tokenizer.all_special_ids, strict=True)
        return special | {str(token): int(id_) for token, id_ in named}

    def encode(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        """Return the tokens of each text with its boundary token, one int32 array a text."""
        encodings = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        boundary = [] if self.boundary_id is None else [self.boundary_id]
        before, after = (boundary, []) if self.boundary == "bos" else ([], boundary)
        return [np.array([*before, *encoding.ids, *after], dtype=np.int32) for encoding in encodings]


def tokenised_documents(documents: Path, split: SplitName, tokenizer: DocumentTokenizer) -> Iterator[TokenBatch]:
    """Yield all documents of a split as tokens, in batches of bounded size and of one domain each.

    The documents of a domain come in their order.
    """
    for batch in read_documents(documents, split):
        numbers = batch["document"].to_numpy()
        domains = np.asarray(batch["domain"].to_pylist(), dtype=object)
        tokens = tokenizer.encode(batch["text"].to_pylist())
        lengths = np.array([len(ids) for ids in tokens], dtype=np.int64)
        for domain in sorted(set(domains)):
            chosen = np.flatnonzero(domains == domain)
            joined = np.concatenate([tokens[index] for index in chosen])
            yield TokenBatch(domain, joined, numbers[chosen], lengths[chosen])


def _loaded(folder: Path) -> Any:
    from transformers import AutoTokenizer

    if not folder.is_dir():
        raise VarError(f"{folder}: no such folder, so no tokenizer; run the stage that makes the model")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = " ".join(str(error).split())[:200]
        raise VarError(f"{folder}: no tokenizer can be loaded ({reason}); add tokenizer.json") from None
    if not tokenizer.is_fast:
        raise VarError(f"{folder}: {type(tokenizer).__name__} is a slow tokenizer; add the fast one's tokenizer.json")
    return tokenizer
