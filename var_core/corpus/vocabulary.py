"""The table of a tokenizer's vocabulary, as a reader would see it."""

from typing import Any

import pyarrow as pa

from var_core.corpus.schema import VOCABULARY
from var_core.corpus.tokenise import DocumentTokenizer

_UNDECODABLE = "\ufffd"
_WORD_START = "\u2581"


def vocabulary_table(tokenizer: DocumentTokenizer) -> pa.Table:
    r"""Return every token id of the tokenizer with its text, in order of the ids.

    The text is what the token decodes to, with the space before a word where the tokenizer puts it into the
    token. Bytes that are only a part of a character are shown as in ``\xe2``.

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
    if decoded and _UNDECODABLE not in decoded:
        return decoded
    if set(raw) <= _BYTE_OF.keys():
        return bytes(_BYTE_OF[character] for character in raw).decode("utf-8", errors="backslashreplace")
    return raw


def _byte_alphabet() -> dict[str, int]:
    """Return the byte that each character of a byte-level vocabulary stands for.

    Bytes that are printable in Latin-1 stand for themselves; the others, in order, are the characters from
    U+0100 on (the convention of GPT-2, which all byte-level tokenizers follow).
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = sorted(set(range(0x100)) - set(printable))
    return {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(others)}


_BYTE_OF = _byte_alphabet()
