"""A digest of the code that a stage uses, so that editing the library reruns exactly the stages that use it.

Snakemake tracks the script of a rule but not what the script imports. The digest covers the script and
every ``var_core`` module that it imports, directly or through others, with the SQL files beside those modules.
It is taken over what runs: a comment, a docstring, a line break or an import for type checkers reruns nothing.
``var_core/__init__.py`` is left out, because it holds the version, and a new version alone changes no result.
"""

import ast
import hashlib
from functools import cache
from pathlib import Path

_PACKAGE = "var_core"
_ROOT = Path(__file__).resolve().parent.parent


def code_digest(script: str | Path, root: Path = _ROOT) -> str:
    """Digest a script and the library modules in its import closure.

    Parameters
    ----------
    script : str or Path
        Python file, relative to `root` or absolute.
    root : Path, optional
        Folder that holds the ``var_core`` package.

    Returns
    -------
    str
        16 hexadecimal digits.

    Raises
    ------
    FileNotFoundError, SyntaxError
        If the script or a module of the closure cannot be read as Python.
    """
    files = {module: _module_file(module, root) for module in import_closure(script, root)}
    digest = hashlib.sha256(_running_code(root / script)[0].encode())
    for module, file in files.items():
        digest.update(f"\0{module}\0{_running_code(file)[0]}".encode())
    for folder in sorted({file.parent for file in files.values()}):
        for data in sorted(folder.glob("*.sql")):
            digest.update(f"\0{data.relative_to(root).as_posix()}\0".encode() + data.read_bytes())
    return digest.hexdigest()[:16]


def import_closure(script: str | Path, root: Path = _ROOT) -> list[str]:
    """Names of all ``var_core`` modules that `script` imports, directly or through others, sorted.

    A package counts when something in it is imported, because its ``__init__.py`` then runs.
    """
    found: set[str] = set()
    waiting = _imports(root / script, root)
    while waiting:
        module = waiting.pop()
        found.add(module)
        waiting |= _imports(_module_file(module, root), root) - found
    return sorted(found)


def _imports(path: Path, root: Path) -> set[str]:
    """Names of the library's modules that the file imports, with the packages they lie in."""
    modules: set[str] = set()
    for name in _running_code(path)[1]:
        parts = name.split(".")
        modules.update(".".join(parts[:depth]) for depth in range(2, len(parts) + 1))
    # An imported name may be a module or something in one; only the file tells.
    return {module for module in modules if _module_file(module, root).exists()}


def _module_file(module: str, root: Path) -> Path:
    base = root.joinpath(*module.split("."))
    return base / "__init__.py" if base.is_dir() else base.with_suffix(".py")


def _running_code(path: Path) -> tuple[str, frozenset[str]]:
    return _running_code_of(path.read_text(encoding="utf-8"), str(path))


@cache
def _running_code_of(text: str, name: str) -> tuple[str, frozenset[str]]:
    """Source without what does not run, in one spelling; and the dotted names below ``var_core`` that it imports."""
    visitor = _WithoutIdleCode()
    tree = visitor.visit(ast.parse(text, filename=name))
    return ast.unparse(tree), frozenset(name for name in visitor.imports if name.startswith(f"{_PACKAGE}."))


class _WithoutIdleCode(ast.NodeTransformer):
    """Drops docstrings, the strings that describe attributes, and imports for type checkers; collects other imports."""

    def __init__(self) -> None:
        self.imports: set[str] = set()

    def generic_visit(self, node: ast.AST) -> ast.AST:
        # Every start of Snakemake and of each of its jobs waits for this, and most nodes are parts of expressions.
        return node if isinstance(node, ast.expr) else super().generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        is_text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if is_text else node

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        idle = ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
        if idle:
            node.body = []
        self.generic_visit(node)
        return node.orelse if idle else node

    def visit_Import(self, node: ast.Import) -> ast.AST:
        self.imports.update(alias.name for alias in node.names)
        return node

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST:
        if node.module and not node.level:
            self.imports.update(f"{node.module}.{alias.name}" for alias in node.names)
        return node
