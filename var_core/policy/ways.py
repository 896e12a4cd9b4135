"""The ways in which a decision can come about."""

from enum import IntEnum


class Way(IntEnum):
    """How a token's experts at a layer were decided; the numbers are what arrays and files hold."""

    LEARNED = 0
    """by the model's own router"""
    FAST = 1
    """from a table"""
    CACHED = 2
    """as before in the same context"""


NOT_COUNTED = -1
"""What stands for padding."""
