"""The ready queries of ``docs/queries.md``: the page is their only source."""

import re
from pathlib import Path

from var_core.errors import VarError

_HEADING = re.compile(r"#{1,6}\s+(?P<title>.+?)\s*")
_FENCE = re.compile(r"```(?P<language>\w*)\s*")


def read_queries(markdown: Path) -> dict[str, str]:
    """Read the queries of a Markdown page: each is a ``sql`` block under a heading of its own.

    Parameters
    ----------
    markdown : Path

    Returns
    -------
    dict of str to str
        Title -> SQL, in the order of the page.

    Raises
    ------
    VarError
        If the page is missing, a block is not closed, or a heading has more than one block (or a block none).
    """
    try:
        lines = markdown.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise VarError(f"{markdown}: no such file; name the page of queries with --queries") from None
    queries: dict[str, str] = {}
    title: str | None = None
    block: list[str] | None = None
    language = ""
    for number, line in enumerate(lines, start=1):
        fence = _FENCE.fullmatch(line)
        if block is not None:
            if fence is None:
                block.append(line)
                continue
            if language == "sql":
                if title is None or title in queries:
                    raise VarError(f"{markdown}: line {number}: a query needs a heading of its own; give it one")
                queries[title] = "\n".join(block)
            block = None
        elif fence is not None:
            block, language = [], fence["language"]
        elif heading := _HEADING.fullmatch(line):
            title = heading["title"]
    if block is not None:
        raise VarError(f"{markdown}: the last code block is not closed; add a line ``` behind it")
    return queries
