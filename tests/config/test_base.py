import math
from typing import Annotated

import pytest
from pydantic import Field, ValidationError

from var_core.config.base import Block, Distinct, HubName, pinned

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Sample(Block):
    """A block with a field of every kind."""

    whole: int | None = 1
    """a whole number"""
    real: float = 0.5
    """a number"""
    yes: bool = False
    """a truth value"""
    names: Annotated[tuple[str, ...], Distinct] = ("a",)
    """names"""
    repo: HubName = "owner/name"
    """a repository"""
    small: int = Field(1, le=3)
    """a bounded number"""


def test_unknown_keys_are_refused():
    with pytest.raises(ValidationError, match="Extra inputs"):
        Sample(wholes=2)


def test_a_block_does_not_change_once_made():
    with pytest.raises(ValidationError, match="frozen"):
        Sample().whole = 2


def test_defaults_are_checked_too():
    class Wrong(Block):
        """Has a default that its own rule forbids."""

        small: int = Field(9, le=3)
        """a bounded number"""

    with pytest.raises(ValidationError):
        Wrong()


@pytest.mark.parametrize("values", [{"whole": True}, {"real": False}, {"real": math.nan}, {"real": math.inf}])
def test_truth_values_and_nan_are_no_numbers(values):
    with pytest.raises(ValidationError):
        Sample(**values)


def test_truth_values_stay_truth_values():
    assert Sample(yes=True).yes is True


def test_a_distinct_tuple_names_what_it_holds_twice():
    with pytest.raises(ValidationError, match="names 'b' twice"):
        Sample(names=("a", "b", "b"))


@pytest.mark.parametrize("name", ["allenai/OLMoE-1B-7B-0924", "gpt2", "a/b.c_d-e"])
def test_names_of_the_hub_are_accepted(name):
    assert Sample(repo=name).repo == name


@pytest.mark.parametrize("name", ["./models/mine", "/models/mine", "a/b/c", "", "a b/c", "https://huggingface.co/a/b"])
def test_paths_and_addresses_are_no_names_of_the_hub(name):
    with pytest.raises(ValidationError, match="owner/name"):
        Sample(repo=name)


def test_a_full_commit_hash_is_pinned():
    assert pinned(COMMIT, "https://huggingface.co/a/b") == COMMIT


@pytest.mark.parametrize(
    "revision", ["main", "v1.0", COMMIT[:7], COMMIT[:-1], COMMIT + "0", COMMIT.upper(), "", COMMIT + "\n"]
)
def test_anything_else_is_not_pinned_and_the_message_says_how_to_find_it(revision):
    with pytest.raises(ValueError, match=r"40 hexadecimal digits.*`git ls-remote https://huggingface.co/a/b HEAD`"):
        pinned(revision, "https://huggingface.co/a/b")
