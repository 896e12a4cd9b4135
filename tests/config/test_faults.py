import pytest
from pydantic import Field, ValidationError

from var_core.config.base import Block
from var_core.config.faults import one_line, plain_text


class Inner(Block):
    """A block in a block."""

    count: int = Field(ge=1)
    """how many; said at such length that it takes
    two lines and ``code``"""


class Outer(Block):
    """A block."""

    inner: Inner | None = None
    """an inner block"""
    many: tuple[Inner, ...] = ()
    """several inner blocks"""


def described(**values: object) -> str:
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate(values)
    return one_line(caught.value.errors(), Outer)


def test_a_long_description_stays_on_one_line():
    assert described(inner={}) == (
        "inner.count: is missing (how many; said at such length that it takes two lines and `code`)"
    )


def test_keys_are_found_below_lists_and_optional_blocks():
    assert described(many=[{"count": 1}, {"count": 0}]) == "many.1.count: must be at least 1, not 0"
    assert described(inner={"cuont": 1, "count": 1}) == "inner.cuont: unknown key; did you mean count?"


def test_a_fault_of_a_kind_not_foreseen_still_names_key_and_value():
    class Dated(Block):
        """A block with a type that the configuration does not use."""

        day: bytes = b""
        """a day"""

    with pytest.raises(ValidationError) as caught:
        Dated.model_validate({"day": 3})
    assert one_line(caught.value.errors(), Dated) == "day: input should be a valid bytes, not 3"


def test_text_from_a_docstring():
    assert plain_text("  a\n   b ``c``  ") == "a b `c`"
