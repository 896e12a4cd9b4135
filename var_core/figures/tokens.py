"""Token texts as labels: everything in them visible, nothing that the font lacks."""

from functools import cache

from matplotlib.font_manager import findfont
from matplotlib.ft2font import FT2Font

_VISIBLE = {" ": "␣", "\n": "↵", "\t": "⇥", "\r": "␍"}


def visible(token: str, length: int = 14) -> str:
    """Write a token so that a reader sees all of it.

    Spaces, line breaks and tabs become signs, runs of the same sign are counted, what the font lacks becomes its code
    point, and the middle of what is too long is left out.

    Parameters
    ----------
    token : str
        Text of the token.
    length : int, optional
        Longest label.

    Returns
    -------
    str
    """
    signs = "".join(_sign(character) for character in _counted(token))
    if len(signs) <= length:
        return signs
    end = (length - 1) // 3
    return f"{signs[: length - 1 - end]}…{signs[len(signs) - end :]}"


def _counted(token: str, most: int = 4) -> list[str]:
    """Characters of the token; more than `most` equal ones in a row as one with their number."""
    runs: list[str] = []
    for character in token:
        if runs and runs[-1][0] == character:
            runs[-1] += character
        else:
            runs.append(character)
    parts: list[str] = []
    for run in runs:
        parts.extend(run if len(run) <= most else [run[0], *f"×{len(run)}"])
    return parts


def _sign(character: str) -> str:
    if character in _VISIBLE:
        return _VISIBLE[character]
    if not character.isprintable() or ord(character) not in _known():
        return f"U+{ord(character):04X}"
    return character


@cache
def _known() -> frozenset[int]:
    """Code points that the figures' font has."""
    return frozenset(FT2Font(findfont("DejaVu Sans")).get_charmap())
