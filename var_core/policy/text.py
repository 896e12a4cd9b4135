"""Which text a policy was made from or tried on: marks of documents, by which overlaps are found."""

import hashlib
from collections.abc import Collection, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from var_core.errors import VarError
from var_core.parquet import read_table, write_table

TEXT = "text.parquet"
SCHEMA = pa.schema(
    [
        pa.field("use", pa.string(), nullable=False),
        pa.field("corpus", pa.string(), nullable=False),
        pa.field("document", pa.int32(), nullable=False),
        pa.field("group", pa.string(), nullable=False),
        pa.field("digest", pa.string(), nullable=False),
    ]
)
"""A row a document: the split it was used in, its corpus and number there, its group, and a digest of its text."""
_DIGITS = 32


def mark_text(documents: Path, corpus: str, uses: Sequence[str], numbers: Collection[int] | None = None) -> pa.Table:
    """Mark documents: for each its use, the corpus and group it is of, and a digest of its text.

    Parameters
    ----------
    documents : Path
        ``documents.parquet`` of a corpus.
    corpus : str
        Its name.
    uses : sequence of str
        The splits whose documents are marked.
    numbers : collection of int, optional
        Only these documents.
    """
    parts = []
    with pq.ParquetFile(documents) as file:
        for batch in file.iter_batches(256, columns=["document", "group", "split", "text"]):
            rows = batch.to_pydict()
            kept = [
                place
                for place, (document, split) in enumerate(zip(rows["document"], rows["split"], strict=True))
                if split in uses and (numbers is None or document in numbers)
            ]
            columns = {
                "use": [rows["split"][place] for place in kept],
                "corpus": [corpus] * len(kept),
                "document": [rows["document"][place] for place in kept],
                "group": [rows["group"][place] for place in kept],
                "digest": [_digest(rows["text"][place]) for place in kept],
            }
            parts.append(pa.table(columns, schema=SCHEMA))
    return pa.concat_tables(parts) if parts else SCHEMA.empty_table()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]


def write_marks(path: Path, marks: pa.Table) -> None:
    """Write marks."""
    write_table(path, marks, {})


def read_marks(path: Path) -> pa.Table:
    """Read what was written."""
    return read_table(path, SCHEMA.names)


def check_no_overlap(made_from: pa.Table, tried_on: pa.Table, policy: Path) -> None:
    """Refuse text that a policy was made from: the same document, or another of its group.

    Raises
    ------
    VarError
        If there is such a document.
    """
    digests = set(made_from["digest"].to_pylist())
    groups = set(zip(made_from["corpus"].to_pylist(), made_from["group"].to_pylist(), strict=True))
    for row in tried_on.to_pylist():
        if row["digest"] in digests or (row["corpus"], row["group"]) in groups:
            raise VarError(
                f"{policy}: was made from text that it is to be tried on (group {row['group']} of corpus "
                f"{row['corpus']}); take text that it was not made from"
            )
