"""From a corpus's source to one Parquet file of documents, each with its split."""

import hashlib
import logging
import platform
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from var_core.config.corpus import SPLITS, CorpusConfig, FilesCorpus, PythonStdlibCorpus, SplitName
from var_core.corpus.document import Document, LeftOut
from var_core.corpus.files import file_documents, with_copies
from var_core.corpus.hub import hub_documents
from var_core.corpus.python_stdlib import stdlib_documents
from var_core.corpus.schema import DOCUMENTS
from var_core.corpus.splits import assign_split
from var_core.errors import VarError
from var_core.files import write_json
from var_core.parquet import read_provenance, write_batches

_BATCH_DOCUMENTS = 1024
_BATCH_CHARACTERS = 1_000_000
_KEY_BYTES = 16

EMPTY = "empty documents"
DUPLICATES = "exact duplicates of another document"

_logger = logging.getLogger("var_core.corpus")


def write_documents(
    name: str, config: CorpusConfig, output: Path, code: str, copies: Mapping[str, str] | None = None
) -> None:
    """Read a corpus from its source and write ``documents.parquet`` and ``manifest.json``.

    Documents are numbered in the order of the source. Empty ones, and exact duplicates of an earlier one in
    any domain, are left out and counted. Memory holds a few batches of a million characters and 16 bytes (about 90 with
    Python's own) for each document.

    Parameters
    ----------
    name : str
        Name of the corpus.
    config : CorpusConfig
        Its source and splits.
    output : Path
        Folder for both files.
    code : str
        Digest of the stage's code, for the provenance.
    copies : mapping, optional
        Local copies of files whose addresses (``s3://...``) the configuration names.

    Raises
    ------
    VarError
        If the source cannot be read, the corpus is empty, or a split with a share above 0 gets no document.
    """
    output.mkdir(parents=True, exist_ok=True)
    left_out, counts = LeftOut(), _Counts()
    local = config
    if isinstance(config, FilesCorpus):
        local = config.model_copy(update={"domains": with_copies(config.domains, copies or {})})
    with tempfile.TemporaryDirectory(dir=output, prefix=".documents-") as scratch:
        # The provenance carries the digest of all documents and is written before them: hence a first copy.
        first = Path(scratch, "documents.arrow")
        with pa.OSFile(str(first), "wb") as sink, _ipc_writer(sink) as writer:
            for batch in _batches(_unique(_source(name, local, left_out), left_out), config, counts):
                writer.write_batch(batch)
        _require_documents(name, config, counts)
        provenance = {
            "stage": "documents",
            "corpus": name,
            "digest": counts.all.hexdigest(),
            "config": config.model_dump(mode="json"),
            "code": code,
        }
        with pa.OSFile(str(first), "rb") as source, pa.ipc.open_stream(source) as batches:
            write_batches(output / "documents.parquet", DOCUMENTS, batches, provenance)
    manifest = {**provenance, **counts.summary(), "left_out": dict(left_out), **_origin(config)}
    write_json(output / "manifest.json", manifest)
    _logger.info("corpus %s: %d documents, %d characters", name, manifest["documents"], manifest["characters"])


def read_documents(path: Path, split: SplitName) -> Iterator[pa.RecordBatch]:
    """Yield the documents of one split in batches of bounded size, in order of ``document``.

    A batch holds at most about one million characters (more only for a single document that is longer).

    Parameters
    ----------
    path : Path
        A ``documents.parquet``.
    split : SplitName

    Yields
    ------
    pa.RecordBatch
        Columns as in ``schema.DOCUMENTS``; never empty.

    Raises
    ------
    VarError
        If the file is missing or was not written by :func:`write_documents`.
    """
    if read_provenance(path).get("stage") != "documents":
        raise VarError(f"{path}: is not a file of documents; run the corpus stage")
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group)
            chosen = table.filter(pc.equal(table["split"], split)).combine_chunks()
            yield from (batch for batch in chosen.to_batches() if batch.num_rows)


def _source(name: str, config: CorpusConfig, left_out: LeftOut) -> Iterator[Document]:
    if isinstance(config, PythonStdlibCorpus):
        return stdlib_documents(name, config.domains, left_out)
    if isinstance(config, FilesCorpus):
        return file_documents(name, config)
    return hub_documents(name, config)


def _origin(config: CorpusConfig) -> dict[str, Any]:
    """Say what the text depends on that the configuration does not name."""
    return {"python": platform.python_version()} if isinstance(config, PythonStdlibCorpus) else {}


def _unique(documents: Iterator[Document], left_out: LeftOut) -> Iterator[Document]:
    """Leave out empty documents and all but the first of equal texts."""
    seen: set[bytes] = set()
    for document in documents:
        if not document.text.strip():
            left_out[EMPTY] += 1
            continue
        try:
            key = hashlib.sha256(document.text.encode()).digest()[:_KEY_BYTES]
            document.name.encode()
        except UnicodeEncodeError as error:
            raise VarError(
                f"document {document.name!r}: half of a surrogate pair at character {error.start}, which is not"
                " valid Unicode; correct or remove it"
            ) from None
        if key in seen:
            left_out[DUPLICATES] += 1
            continue
        seen.add(key)
        yield document


@dataclass
class _Count:
    documents: int = 0
    characters: int = 0
    digest: Any = field(default_factory=hashlib.sha256)

    def summary(self) -> dict[str, Any]:
        return {"documents": self.documents, "characters": self.characters, "digest": self.digest.hexdigest()}


@dataclass
class _Counts:
    """Documents, characters and digests by split and domain, and the digest of all documents in order."""

    cells: dict[tuple[SplitName, str], _Count] = field(default_factory=dict)
    all: Any = field(default_factory=hashlib.sha256)

    def add(self, document: Document, split: SplitName) -> None:
        cell = self.cells.setdefault((split, document.domain), _Count())
        cell.documents += 1
        cell.characters += len(document.text)
        for part in (document.name, document.group, document.domain, split, document.text):
            data = part.encode()
            for digest in (cell.digest, self.all):
                # The length goes before the text so that no two lists of documents read the same.
                digest.update(len(data).to_bytes(8, "big"))
                digest.update(data)

    def total(self, quantity: str, split: SplitName | None = None) -> int:
        return sum(getattr(cell, quantity) for (of, _), cell in self.cells.items() if split in (None, of))

    def summary(self) -> dict[str, Any]:
        splits = {
            split: {
                "documents": self.total("documents", split),
                "characters": self.total("characters", split),
                "domains": {domain: cell.summary() for (of, domain), cell in self.cells.items() if of == split},
            }
            for split in SPLITS
        }
        return {
            "documents": self.total("documents"),
            "characters": self.total("characters"),
            "splits": splits,
        }


def _batches(documents: Iterator[Document], config: CorpusConfig, counts: _Counts) -> Iterator[pa.RecordBatch]:
    """Give every document its number and split, and gather them into batches of bounded size."""
    rows: list[dict[str, Any]] = []
    characters = 0
    for number, document in enumerate(documents):
        if rows and (len(rows) == _BATCH_DOCUMENTS or characters + len(document.text) > _BATCH_CHARACTERS):
            yield pa.RecordBatch.from_pylist(rows, schema=DOCUMENTS)
            rows, characters = [], 0
        split = assign_split(document.group, config.splits)
        counts.add(document, split)
        characters += len(document.text)
        rows.append(
            {
                "document": number,
                "name": document.name,
                "group": document.group,
                "domain": document.domain,
                "split": split,
                "text": document.text,
            }
        )
    if rows:
        yield pa.RecordBatch.from_pylist(rows, schema=DOCUMENTS)


def _ipc_writer(sink: pa.NativeFile) -> pa.ipc.RecordBatchStreamWriter:
    return pa.ipc.new_stream(sink, DOCUMENTS, options=pa.ipc.IpcWriteOptions(compression="zstd"))


def _require_documents(name: str, config: CorpusConfig, counts: _Counts) -> None:
    documents = counts.total("documents")
    if not documents:
        raise VarError(f"corpora.{name}: the corpus is empty; name other files, fields or domains")
    for split in SPLITS:
        if getattr(config.splits, split) and not counts.total("documents", split):
            raise VarError(
                f"corpora.{name}.splits.{split}: none of the {documents} documents fell into this split;"
                " raise its share or add documents"
            )
