"""A digest of the code that a stage uses, so that editing the library reruns exactly the stages that use it.

Snakemake tracks the script of a rule but not what the script imports. The digest covers the script and
every ``var_core`` module that it imports, directly or through others. It is taken over the syntax trees
without docstrings, so a comment, a docstring or a line break reruns nothing.
"""

import ast
import hashlib
from functools import lru_cache
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
    """
    digest = hashlib.sha256(_normalised(root / script).encode())
    for module in import_closure(script, root):
        digest.update(module.encode())
        digest.update(_normalised(_module_file(module, root)).encode())
        for data in sorted(_module_file(module, root).parent.glob("*.sql")):
            digest.update(data.read_bytes())
    return digest.hexdigest()[:16]


def import_closure(script: str | Path, root: Path = _ROOT) -> list[str]:
    """Names of all ``var_core`` modules that `script` imports, directly or through others, sorted."""
    found: set[str] = set()
    waiting = sorted(_imports(root / script, root))
    while waiting:
        module = waiting.pop()
        if module in found:
            continue
        found.add(module)
        parents = [module.rsplit(".", depth)[0] for depth in range(1, module.count(".") + 1)]
        waiting += [*parents, *_imports(_module_file(module, root), root)]
    return sorted(found)


def _module_file(module: str, root: Path) -> Path:
    base = root.joinpath(*module.split("."))
    return base / "__init__.py" if base.is_dir() else base.with_suffix(".py")


def _imports(path: Path, root: Path) -> set[str]:
    modules: set[str] = set()
    for node in ast.walk(_parse(path)):
        if isinstance(node, ast.Import):
            modules.update(name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            modules.add(node.module)
            modules.update(f"{node.module}.{name.name}" for name in node.names)
    ours = {name for name in modules if name == _PACKAGE or name.startswith(_PACKAGE + ".")}
    return {name for name in ours if _module_file(name, root).exists()}


@lru_cache(maxsize=None)
def _parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


@lru_cache(maxsize=None)
def _normalised(path: Path) -> str:
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    for node in ast.walk(tree):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if node.body and isinstance(node.body[0], ast.Expr) and isinstance(node.body[0].value, ast.Constant):
            node.body[0].value.value = ""
    return ast.dump(tree, include_attributes=False)
