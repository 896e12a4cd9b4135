"""Documents from a data set of the Hugging Face hub, streamed at a pinned revision."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from var_core.config.corpus import HubCorpus
from var_core.corpus.document import Document, label_of, text_of
from var_core.errors import VarError
from var_core.progress import Progress

ONE_DOMAIN = "text"
"""The domain of all documents of a data set that has no field for it."""


def hub_documents(corpus: str, config: HubCorpus) -> Iterator[Document]:
    """Yield the first ``max_documents`` documents of a data set, in its order, without storing the data set.

    Parameters
    ----------
    corpus : str
        Name of the corpus, for messages.
    config : HubCorpus
        Data set, revision and fields. ``dataset`` may also be a local folder that ``datasets`` can load.

    Raises
    ------
    VarError
        If the data set cannot be reached or read, or a row lacks a field.
    """
    with Progress(config.max_documents, "document", f"read {config.dataset}") as progress:
        for number, row in enumerate(_rows(corpus, config), start=1):
            try:
                yield _document(row, number, config)
            except KeyError as error:
                raise VarError(
                    f"{config.dataset}: row {number} has no field {error.args[0]!r} (it has {', '.join(row)});"
                    f" set {_key_of(error.args[0], corpus, config)}"
                ) from None
            except TypeError as error:
                raise VarError(
                    f"{config.dataset}: row {number} {error}; choose other fields in corpora.{corpus}"
                ) from None
            progress.advance(1)


def _document(row: Any, number: int, config: HubCorpus) -> Document:
    text = text_of(row, config.text_field)
    name = label_of(row, config.name_field) if config.name_field else str(number)
    domain = label_of(row, config.domain_field) if config.domain_field else ONE_DOMAIN
    return Document(name, name, domain, text)


def _key_of(field: str, corpus: str, config: HubCorpus) -> str:
    keys = [key for key in ("text_field", "name_field", "domain_field") if getattr(config, key) == field]
    return f"corpora.{corpus}.{keys[0]}"


def _rows(corpus: str, config: HubCorpus) -> Iterator[Any]:
    # Imported here because it takes a second, which no other source should wait for.
    import datasets

    # The library lets through errors of all the packages below it (HTTP clients, Arrow, its own), which have no
    # common class, so every exception of a call into it is taken as a fault of the data set or the connection.
    try:
        stream = datasets.load_dataset(
            config.dataset, config.name, split=config.split, revision=config.revision, streaming=True
        )
        rows = iter(stream)
    except Exception as error:
        raise _unavailable(corpus, config, error) from error
    for _ in range(config.max_documents):
        try:
            row = next(rows)
        except StopIteration:
            return
        except Exception as error:
            raise _unavailable(corpus, config, error) from error
        yield row


def _unavailable(corpus: str, config: HubCorpus, error: Exception) -> VarError:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    kind = "folder" if Path(config.dataset).is_dir() else "data set"
    return VarError(
        f"corpora.{corpus}.dataset: cannot read {kind} {config.dataset} at revision {config.revision}"
        f" (name {config.name}, split {config.split}): {reason}; check these keys and the connection"
    )
