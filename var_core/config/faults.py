"""Say in one plain line what is wrong with a configuration: the key, the fault, and what to do."""

import difflib
from collections.abc import Mapping, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import ErrorDetails

_WANTED = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_for_number": "a number",
    "string_type": "text",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "tuple_type": "a list",
    "dict_type": "a block of settings",
    "model_type": "a block of settings",
    "model_attributes_type": "a block of settings",
    "greater_than": "more than {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "less_than": "less than {lt:g}",
    "less_than_equal": "at most {le:g}",
    "literal_error": "{expected}",
}
"""Pydantic's kind of fault -> what is wanted instead, filled in from the fault's context."""

_SAY_MOST = ("invalid_key", "extra_forbidden")
_SHOWN_CHARACTERS = 60


def one_line(faults: Sequence[ErrorDetails], root: type[BaseModel]) -> str:
    """Describe the fault that explains most, and count the others.

    Unknown keys come first: a misspelt key is a missing one too, and its own name says more.

    Parameters
    ----------
    faults : sequence of ErrorDetails
        What pydantic found; at least one.
    root : type of BaseModel
        The model that was validated.

    Returns
    -------
    str
        ``key: what is wrong; what to do``, without a line break.
    """
    first = min(faults, key=lambda fault: fault["type"] not in _SAY_MOST)
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    return _describe(first, root) + more


def plain_text(docstring: str) -> str:
    """Put a docstring on one line, with single backticks."""
    return " ".join(docstring.split()).replace("``", "`")


def _describe(fault: ErrorDetails, root: type[BaseModel]) -> str:
    parts, block, here = _place(fault["loc"], root)
    kind, context, value = fault["type"], dict(fault.get("ctx", {})), fault["input"]
    if kind == "bool_for_number":
        parts, value = [*parts, context["key"]], context["value"]
    elif kind.startswith("union_tag"):
        tag = context["discriminator"].strip("'")
        known = ", ".join(sorted(_tag(member) for member in _members(here)))
        saying = "is missing" if kind.endswith("not_found") else f"{_shown(value[tag])} is not known"
        return f"{'.'.join(parts)}.{tag}: {saying}; known are {known}"
    complaint = _complaint(kind, {**context, "message": fault["msg"]}, value, parts[-1] if parts else "", block)
    return ": ".join(filter(None, [".".join(parts), complaint]))


def _complaint(kind: str, context: dict[str, Any], value: Any, name: str, block: type[BaseModel] | None) -> str:
    """Say what is wrong with the key `name` of `block`."""
    field = block.model_fields.get(name) if block else None
    if kind == "value_error":
        return str(context["error"])
    if kind == "extra_forbidden":
        return _unknown_key(name, list(block.model_fields) if block else [])
    if kind in ("missing", "too_short", "string_too_short"):
        meaning = f" ({plain_text(field.description)})" if field and field.description else ""
        return ("is missing" if kind == "missing" else "is empty") + meaning
    if kind == "invalid_key":
        return "a key must be text; put it in quotes"
    if kind not in _WANTED:
        return f"{context['message'][:1].lower()}{context['message'][1:]}, not {_shown(value)}"
    wanted = _WANTED[kind].format_map(context)
    hint = ""
    if value is None and field and not field.is_required():
        hint = "; leave the key out for its default"
    elif kind == "string_type" and not isinstance(value, dict | list | NoneType):
        hint = "; put it in quotes"
    return f"must be {wanted}, not {_shown(value)}{hint}"


def _unknown_key(name: str, known: list[str]) -> str:
    guess = difflib.get_close_matches(name, known, n=1)
    return "unknown key; " + (f"did you mean {guess[0]}?" if guess else f"known here are {', '.join(known)}")


def _shown(value: Any) -> str:
    """Write a value as the user would know it from the file."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return "a block"
    if isinstance(value, list | tuple):
        return "a list"
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…"


def _place(location: Sequence[int | str], root: type[BaseModel]) -> tuple[list[str], type[BaseModel] | None, Any]:
    """Return the keys that lead to a fault as the user wrote them, the block that holds the last one, and its type.

    Pydantic's location also names the member of a union that was tried; the user's file has no such level.
    """
    parts: list[str] = []
    block: type[BaseModel] | None = None
    here: Any = root
    for step in location:
        if step == "[key]":
            continue
        members = _members(here)
        if len(members) > 1:
            here = next((member for member in members if _tag(member) == step), None)
            continue
        here = members[0]
        parts.append(str(step))
        block = here if isinstance(here, type) and issubclass(here, BaseModel) else None
        if block is not None:
            field = block.model_fields.get(str(step))
            here = field.annotation if field else None
        else:
            here = {dict: get_args(here)[1:], tuple: get_args(here)[:1]}.get(get_origin(here), (None,))[0]
    return parts, block, here


def _tag(member: type[BaseModel]) -> str:
    """Value of ``source`` that stands for a member of a union of blocks."""
    return str(get_args(member.model_fields["source"].annotation)[0])


def _members(annotation: Any) -> tuple[Any, ...]:
    """Members of a union of blocks, without ``Annotated`` and without null; of anything else, itself."""
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) in (Union, UnionType):
        return tuple(member for member in get_args(annotation) if member is not NoneType)
    return (annotation,)
