"""A Python module as two texts: its docstrings, and its code without them. Nothing is imported or run."""

import ast
import warnings
from collections.abc import Iterator

_Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def parse_module(source: str) -> ast.Module:
    """Parse a module's source quietly.

    Raises
    ------
    SyntaxError, ValueError, RecursionError
        If it is not a module of this Python's language.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the compiler thinks of old escape sequences is not our matter
        return ast.parse(source)


def docstrings_text(module: str, tree: ast.Module) -> str:
    """Return the docstrings of a module, its classes and functions in the order of the source.

    Each stands under a line that names what it documents, as ``class json.decoder.JSONDecodeError(ValueError)``;
    what has no docstring has no line.

    Parameters
    ----------
    module : str
        Dotted name of the module.
    tree : ast.Module
        The parsed module.

    Returns
    -------
    str
        The text, empty if nothing is documented.
    """
    parts = []
    for head, node in [(f"module {module}", tree), *_definitions(tree, module)]:
        docstring = ast.get_docstring(node)
        if docstring and docstring.strip():
            parts.append(f"{head}\n\n{docstring.strip()}\n")
    return "\n\n".join(parts)


def _definitions(node: ast.AST, prefix: str) -> Iterator[tuple[str, _Definition]]:
    """Yield the signature line and node of every class and function below `node`, in source order."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, _Definition):
            name = f"{prefix}.{child.name}"
            yield _signature(name, child), child
            yield from _definitions(child, name)
        else:
            yield from _definitions(child, prefix)


def _signature(name: str, node: _Definition) -> str:
    if isinstance(node, ast.ClassDef):
        bases = ", ".join(ast.unparse(base) for base in (*node.bases, *node.keywords))
        return f"class {name}({bases})" if bases else f"class {name}"
    keyword = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"{keyword} {name}({ast.unparse(node.args)}){returns}"


def code_without_docstrings(source: str, tree: ast.Module) -> str:
    r"""Return `source` without its docstrings; what had only a docstring as its body gets ``pass``.

    Comments and layout stay. The result parses to the same tree as `source` with the docstrings taken out.

    Parameters
    ----------
    source : str
        Source with ``\n`` at the ends of lines.
    tree : ast.Module
        `source`, parsed.
    """
    data = source.encode()
    line_starts = [0]
    for line in data.split(b"\n"):
        line_starts.append(line_starts[-1] + len(line) + 1)
    kept, position = [], 0
    for node, alone in _docstring_nodes(tree):
        start, end = (line_starts[row - 1] + column for row, column in _span(node))
        if alone:
            kept += [data[position:start], b"pass"]
            position = end
            continue
        start, end = _widened(data, start, end)
        kept.append(data[position:start])
        position = end
    kept.append(data[position:])
    return b"".join(kept).decode()


def _docstring_nodes(tree: ast.Module) -> list[tuple[ast.stmt, bool]]:
    """Docstring statements in source order, each with whether it is a definition's whole body."""
    found: list[tuple[ast.stmt, bool]] = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Module | _Definition) or ast.get_docstring(node, clean=False) is None:
            continue
        found.append((node.body[0], len(node.body) == 1 and not isinstance(node, ast.Module)))
    return sorted(found, key=lambda pair: (pair[0].lineno, pair[0].col_offset))


def _span(node: ast.stmt) -> tuple[tuple[int, int], tuple[int, int]]:
    """Line (from 1) and byte column where the statement starts, and where it ends."""
    assert node.end_lineno is not None and node.end_col_offset is not None
    return (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)


def _widened(data: bytes, start: int, end: int) -> tuple[int, int]:
    """Let a statement's bytes take in the semicolon after it, or else its whole lines if nothing else is on them."""
    after = end
    while data[after : after + 1] in (b" ", b"\t"):
        after += 1
    if data[after : after + 1] == b";":
        after += 1
        while data[after : after + 1] in (b" ", b"\t"):
            after += 1
        return start, after
    before = data.rfind(b"\n", 0, start) + 1
    if data[after : after + 1] in (b"\n", b"") and not data[before:start].strip():
        return before, after + 1
    return start, end
