"""What every block of the configuration has in common, and the kinds of value that several blocks use."""

import re
from typing import Annotated, Any, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, model_validator
from pydantic_core import PydanticCustomError

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
COMMIT_PATTERN = "^[0-9a-f]{40}$"
"""A full commit hash; the hub takes no shortened one, and only a full one is found without a connection."""

_Values = TypeVar("_Values", bound=tuple[Any, ...])


class Block(BaseModel):
    """A block of settings: unknown keys are refused, values are checked, and nothing changes later."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        validate_default=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
    )

    @model_validator(mode="before")
    @classmethod
    def _no_truth_value_for_a_number(cls, values: Any) -> Any:
        """Refuse ``true`` where a number is wanted; pydantic would take it for 1."""
        if isinstance(values, dict):
            for name, value in values.items():
                field = cls.model_fields.get(name)
                if isinstance(value, bool) and field and {int, float} & {field.annotation, *get_args(field.annotation)}:
                    raise PydanticCustomError(
                        "bool_for_number", "a truth value for a number", {"key": name, "value": value}
                    )
        return values


def _distinct(values: _Values) -> _Values:
    twice = [value for value in dict.fromkeys(values) if values.count(value) > 1]
    if twice:
        raise ValueError(f"names {twice[0]!r} twice")
    return values


def _hub_name(name: str) -> str:
    if not _HUB_NAME.fullmatch(name):
        raise ValueError(f"must be owner/name as on huggingface.co, not {name!r}")
    return name


Distinct = AfterValidator(_distinct)
"""Marks a tuple that may hold no value twice."""

HubName = Annotated[str, AfterValidator(_hub_name)]
"""Name of a repository on the Hugging Face hub."""


def pinned(revision: str, address: str) -> str:
    """Return `revision` if it is a full commit hash.

    Parameters
    ----------
    revision : str
        What the configuration says.
    address : str
        The repository's address, for the message.

    Raises
    ------
    ValueError
        If it is a branch, a tag or a shortened hash: those move or are ambiguous, and results with them.
    """
    if not re.fullmatch(COMMIT_PATTERN, revision):
        raise ValueError(
            f"must be a full commit hash of 40 hexadecimal digits, not {revision!r}; "
            f"`git ls-remote {address} HEAD` prints the newest"
        )
    return revision
