"""What every source of text yields, and the count of what it left out."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LeftOut = Counter[str]
"""Reason -> number of files or documents that a source left out for it."""


@dataclass(frozen=True, slots=True)
class Document:
    """A text with its origin.

    Attributes
    ----------
    name : str
        Where the text is from, for people.
    group : str
        What must not be torn apart: all documents of a group go into one split.
    domain : str
        Kind of text; statistics are kept by domain, and no sequence mixes two.
    text : str
        The text itself.
    """

    name: str
    group: str
    domain: str
    text: str


def look_up(record: Mapping[str, Any], field: str) -> Any:
    """Return a field of a record; a dot in `field` reaches into a record inside the record.

    Raises
    ------
    KeyError
        If the record has no such field.
    """
    if field in record:
        return record[field]
    value: Any = record
    for part in field.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise KeyError(field)
        value = value[part]
    return value


def text_of(record: Any, field: str) -> str:
    """Return the text in a record; null counts as an empty text.

    Raises
    ------
    KeyError
        If the record has no such field.
    TypeError
        If what the field holds is not text, or the record is not a record.
    """
    if not isinstance(record, Mapping):
        raise TypeError(f"is {_kind(record)}, not a record of fields")
    value = look_up(record, field)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise TypeError(f"field {field!r} holds {_kind(value)}, not text")
    return value


def label_of(record: Mapping[str, Any], field: str) -> str:
    """Return the name or domain that a record's field holds: text, or a whole number as text.

    Raises
    ------
    KeyError
        If the record has no such field.
    TypeError
        If the field holds anything else, or nothing.
    """
    value = look_up(record, field)
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise TypeError(f"field {field!r} holds {_kind(value)}, not a name")
    return str(value)


def _kind(value: Any) -> str:
    names = {type(None): "null", str: "an empty text", Mapping: "a record", list: "a list", bool: "a truth value"}
    return names.get(type(value), "a record" if isinstance(value, Mapping) else "a number")
