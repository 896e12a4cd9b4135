"""The table of a tokenizer's vocabulary, as a reader would see it."""

from typing import Any

import pyarrow as pa

from var_core.corpus.schema import VOCABULARY
from var_core.corpus.tokenise import DocumentTokenizer

_UNDECODABLE = "\ufffd"
_WORD_START = "\u2581"


def vocabulary_table(tokenizer: DocumentTokenizer) -> pa.Table:
    """Return every token id of the tokenizer with its text, in order of the ids.

    The text is what the token decodes to, with the space before a word where the tokenizer puts it into the
    token. A token that is only a part of a character (a byte of UTF-8) has no text of its own and is shown
    in the tokenizer's own notation.

    Parameters
    ----------
    tokenizer : DocumentTokenizer

    Returns
    -------
    pa.Table
        As in ``schema.VOCABULARY``.
    """
    raw = {int(id_): str(token) for token, id_ in tokenizer.tokenizer.get_vocab().items()}
    ids = sorted(raw)
    special = set(tokenizer.special_tokens().values())
    backend: Any = tokenizer.tokenizer.backend_tokenizer
    decoded = backend.decode_batch([[id_] for id_ in ids], skip_special_tokens=False)
    texts = [_readable(raw[id_], text) for id_, text in zip(ids, decoded, strict=True)]
    columns = [pa.array(ids, pa.int32()), pa.array(texts, pa.string()), pa.array([id_ in special for id_ in ids])]
    return pa.Table.from_arrays(columns, schema=VOCABULARY)


def _readable(raw: str, decoded: str) -> str:
    if raw.startswith(_WORD_START):
        return raw.replace(_WORD_START, " ")
    return raw if not decoded or _UNDECODABLE in decoded else decoded
