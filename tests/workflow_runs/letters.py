"""Text of a few kilobytes, for runs that only have to go through."""

from pathlib import Path


def write_letters(folder: Path) -> None:
    """Write sixty short text files."""
    folder.mkdir()
    for number in range(60):
        text = f"Dear {number},\nI write to say what number {number} says. " * 20
        (folder / f"{number}.txt").write_text(text, encoding="utf-8")
