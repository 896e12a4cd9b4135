"""Documents from local text, JSONL and Parquet files."""

import glob
import gzip
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa
import pyarrow.parquet as pq

from var_core.config.corpus import FilesCorpus
from var_core.corpus.document import Document, label_of, text_of
from var_core.errors import VarError

_PARQUET_ROWS = 256
_SCHEME = "://"


def file_documents(corpus: str, config: FilesCorpus) -> Iterator[Document]:
    """Yield the documents of local files, domain by domain, files in order of their paths, rows in file order.

    A document is called ``{domain}/{file}`` for text, and ``{domain}/{file}:{row}`` for a row (from 1), with the
    file's path as seen from the fixed part of its pattern, so that moving all files changes no split. With
    ``name_field``, a row is called what that field says, and rows with one name are one group.

    Parameters
    ----------
    corpus : str
        Name of the corpus, for messages.
    config : FilesCorpus
        Format, patterns and fields. Patterns are relative to the working folder; ``**`` reaches into folders.

    Raises
    ------
    VarError
        If a pattern matches nothing, a file is in two domains, or a file or row is not what the format says;
        the message names the key, or the file and the byte, line or row.
    """
    for domain, files in matched_files(corpus, config.domains).items():
        for path, name in files:
            if config.format == "text":
                yield _text_document(path, domain, name)
            elif config.format == "jsonl":
                yield from _row_documents(_jsonl_rows(path), path, domain, name, corpus, config)
            else:
                yield from _row_documents(_parquet_rows(path, corpus, config), path, domain, name, corpus, config)


def matched_files(corpus: str, domains: Mapping[str, Sequence[str]]) -> dict[str, list[tuple[Path, str]]]:
    """Find the files of every domain, each with its path as seen from the fixed part of its pattern.

    Parameters
    ----------
    corpus : str
        Name of the corpus, for messages.
    domains : mapping
        Domain -> paths or patterns, as in the configuration.

    Raises
    ------
    VarError
        If a pattern matches no file, or a file is in two domains.
    """
    owners: dict[Path, str] = {}
    matched: dict[str, list[tuple[Path, str]]] = {}
    for domain, patterns in domains.items():
        key = f"corpora.{corpus}.domains.{domain}"
        names: dict[Path, str] = {}
        for pattern in patterns:
            for path, name in _matches(pattern, key):
                names.setdefault(path, name)
                owner = owners.setdefault(path.resolve(), domain)
                if owner != domain:
                    raise VarError(f"{key}: {path} is in domain {owner} too; a document has one domain")
        matched[domain] = sorted(names.items())
    return matched


def stored_objects(domains: Mapping[str, Sequence[str]]) -> list[str]:
    """Addresses such as ``s3://bucket/folder/text.jsonl`` among the patterns of all domains, in their order."""
    return [pattern for patterns in domains.values() for pattern in patterns if _SCHEME in pattern]


def local_patterns(domains: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """The patterns that are not addresses, by domain."""
    return {domain: [each for each in patterns if _SCHEME not in each] for domain, patterns in domains.items()}


def with_copies(domains: Mapping[str, Sequence[str]], copies: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Patterns with the paths of local copies in the place of addresses.

    Parameters
    ----------
    domains : mapping
        Domain -> paths, patterns or addresses.
    copies : mapping
        Address -> path of its copy.
    """
    return {
        domain: tuple(glob.escape(copies[each]) if each in copies else each for each in patterns)
        for domain, patterns in domains.items()
    }


def corpus_paths(corpus: str, domains: Mapping[str, Sequence[str]]) -> list[Path]:
    """List the files of all domains, each once, in order of their paths; raises as :func:`matched_files`."""
    return sorted({path for files in matched_files(corpus, domains).values() for path, _ in files})


def _matches(pattern: str, key: str) -> list[tuple[Path, str]]:
    if _SCHEME in pattern:
        raise VarError(
            f"{key}: {pattern} is no local file; only the workflow reads from a storage, an object an address"
        )
    if Path(pattern).is_dir():
        raise VarError(f"{key}: {pattern} is a folder; name its files, for example {pattern.rstrip('/')}/**/*")
    # Path.glob refuses patterns that start at the root.
    paths = [Path(path) for path in glob.glob(pattern, recursive=True)]  # noqa: PTH207
    files = [path for path in paths if path.is_file()]
    if not files:
        raise VarError(f"{key}: {pattern} matches no file; paths are relative to {Path.cwd()}")
    fixed = Path(pattern).parent
    while glob.has_magic(str(fixed)):
        fixed = fixed.parent
    return [(path, path.relative_to(fixed).as_posix()) for path in files]


def _opened(path: Path) -> BinaryIO:
    # GzipFile reads like any binary file but is not declared to be one.
    return cast(BinaryIO, gzip.open(path, "rb")) if path.suffix == ".gz" else path.open("rb")


def _decoded(data: bytes, path: Path, offset: int) -> str:
    try:
        return data.decode("utf-8-sig" if offset == 0 else "utf-8")
    except UnicodeDecodeError as error:
        place = f"byte {offset + error.start}" + (" (of the decompressed text)" if path.suffix == ".gz" else "")
        raise VarError(f"{path}: not UTF-8 at {place}; convert the file to UTF-8") from None


def _unreadable(path: Path, error: Exception) -> VarError:
    return VarError(f"{path}: cannot be read ({str(error).splitlines()[0]}); replace the file")


def _text_document(path: Path, domain: str, name: str) -> Document:
    try:
        with _opened(path) as stream:
            data = stream.read()
    except (OSError, EOFError, zlib.error) as error:
        raise _unreadable(path, error) from None
    name = f"{domain}/{name}"
    return Document(name, name, domain, _decoded(data, path, 0))


def _jsonl_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield the line number (from 1) and the value of every line that is not blank."""
    offset = 0
    try:
        with _opened(path) as stream:
            for number, line in enumerate(stream, start=1):
                text = _decoded(line, path, offset)
                offset += len(line)
                if text.strip():
                    yield number, _parsed(text, path, number)
    except (OSError, EOFError, zlib.error) as error:
        raise _unreadable(path, error) from None


def _parsed(line: str, path: Path, number: int) -> Any:
    try:
        return json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply"
        raise VarError(f"{path}: line {number} is not JSON ({reason}); correct or remove it") from None


def _parquet_rows(path: Path, corpus: str, config: FilesCorpus) -> Iterator[tuple[int, Any]]:
    """Yield the row number (from 1) and the record of every row, with only the fields that are used."""
    first = 1
    try:
        with pq.ParquetFile(path) as file:
            fields = {"text_field": config.text_field, "name_field": config.name_field}
            columns = {
                _column(file.schema_arrow.names, field, key, path, corpus)
                for key, field in fields.items()
                if field is not None
            }
            for batch in file.iter_batches(batch_size=_PARQUET_ROWS, columns=sorted(columns)):
                yield from enumerate(batch.to_pylist(), start=first)
                first += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error) from None


def _column(names: list[str], field: str, key: str, path: Path, corpus: str) -> str:
    column = field if field in names else field.partition(".")[0]
    if column not in names:
        raise VarError(f"{path}: has no column {field!r}, only {', '.join(names)}; set corpora.{corpus}.{key}")
    return column


def _row_documents(
    rows: Iterator[tuple[int, Any]], path: Path, domain: str, name: str, corpus: str, config: FilesCorpus
) -> Iterator[Document]:
    for number, record in rows:
        try:
            text = text_of(record, config.text_field)
            label = label_of(record, config.name_field) if config.name_field else f"{domain}/{name}:{number}"
        except KeyError as error:
            key = "text_field" if error.args[0] == config.text_field else "name_field"
            raise VarError(
                f"{path}: row {number} has no field {error.args[0]!r}; set corpora.{corpus}.{key} or add the field"
            ) from None
        except TypeError as error:
            raise VarError(f"{path}: row {number} {error}; correct or remove the row") from None
        yield Document(label, label, domain, text)
