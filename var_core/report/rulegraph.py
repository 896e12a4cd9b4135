"""The rule graph in the README: Snakemake's, rules by name, in a fixed order, without arrows that others imply.

``snakemake --rulegraph mermaid-js | python -m var_core.report.rulegraph docs/demo/rulegraph.mmd``
"""

import re
import sys
from pathlib import Path

from var_core.files import write_text

_NODE = re.compile(r"^\s*(id\d+)\[(\w+)\]", re.MULTILINE)
_ARROW = re.compile(r"^\s*(id\d+) --> (id\d+)", re.MULTILINE)


def normalised(mermaid: str) -> str:
    """Rewrite Snakemake's Mermaid graph so that the same graph is the same text."""
    names = dict(_NODE.findall(mermaid))
    arrows = {(names[start], names[end]) for start, end in _ARROW.findall(mermaid)}
    kept = sorted(arrow for arrow in arrows if not _goes_without_saying(arrow, arrows))
    return "\n".join(["flowchart TD", *(f"    {start} --> {end}" for start, end in kept)]) + "\n"


def _goes_without_saying(arrow: tuple[str, str], arrows: set[tuple[str, str]]) -> bool:
    """Whether an arrow's end is reached from its start by others (the graph has no circles)."""
    start, end = arrow
    waiting = [after for before, after in arrows if before == start and after != end]
    met = set(waiting)
    while waiting:
        here = waiting.pop()
        more = {after for before, after in arrows if before == here} - met
        met |= more
        waiting += more
    return end in met


if __name__ == "__main__":
    write_text(Path(sys.argv[1]), normalised(sys.stdin.read()))
