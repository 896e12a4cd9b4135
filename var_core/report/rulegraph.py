"""The rule graph in the README: Snakemake's, with rules by name and in a fixed order.

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
    arrows = sorted({(names[start], names[end]) for start, end in _ARROW.findall(mermaid)})
    return "\n".join(["flowchart TD", *(f"    {start} --> {end}" for start, end in arrows)]) + "\n"


if __name__ == "__main__":
    write_text(Path(sys.argv[1]), normalised(sys.stdin.read()))
