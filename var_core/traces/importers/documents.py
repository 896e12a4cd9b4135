"""The table of what was recorded together: a row a request, a text, a part of a conversation; without its text."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from var_core.corpus.schema import DOCUMENTS
from var_core.traces.importers.recording import Recording

_ROWS = 4096


class DocumentTable:
    """Collects the documents of a run on disk, and counts them.

    Parameters
    ----------
    path : Path
        A temporary file.
    """

    SCHEMA: ClassVar[pa.Schema] = pa.schema([field for field in DOCUMENTS if field.name != "text"])
    """As the documents of a corpus, but nobody recorded the text."""

    def __init__(self, path: Path) -> None:
        self._path, self._rows = path, list[dict[str, Any]]()
        self._writer: Any = None
        self._digest = hashlib.sha256()
        self._count = 0
        self._totals: dict[str, dict[str, Any]] = {}

    @property
    def digest(self) -> str:
        """SHA-256 over names, splits and tokens of all documents, in order."""
        return self._digest.hexdigest()

    def add(self, recording: Recording, split: str) -> int:
        """Add a document; return its number."""
        tokens = len(recording.experts)
        row = {"document": self._count, "name": recording.name, "group": recording.group, "domain": recording.domain}
        self._rows.append({**row, "split": split})
        self._digest.update(repr([*row.values(), split, tokens]).encode() + recording.experts.tobytes())
        total = self._totals.setdefault(split, {"documents": 0, "tokens": 0, "domains": {}})
        for each in (total, total["domains"].setdefault(recording.domain, {"documents": 0, "tokens": 0})):
            each["documents"] += 1
            each["tokens"] += tokens
        self._count += 1
        if len(self._rows) >= _ROWS:
            self._flush()
        return self._count - 1

    def summary(self) -> dict[str, dict[str, Any]]:
        """Documents and tokens by split, and under ``domains`` by domain."""
        return self._totals

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Give all rows back, in order."""
        self._flush()
        if self._writer is None:
            return
        self._writer.close()
        with pa.OSFile(str(self._path), "rb") as source, pa.ipc.open_stream(source) as stream:
            yield from stream

    def _flush(self) -> None:
        if not self._rows:
            return
        if self._writer is None:
            self._writer = pa.ipc.new_stream(str(self._path), self.SCHEMA)
        self._writer.write_batch(pa.RecordBatch.from_pylist(self._rows, schema=self.SCHEMA))
        self._rows = []
