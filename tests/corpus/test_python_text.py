import ast
import sysconfig
from pathlib import Path

import pytest

from var_core.corpus.python_text import code_without_docstrings, docstrings_text, parse_module

LIBRARY = Path(sysconfig.get_path("stdlib"))
MODULES = [
    "argparse.py", "ast.py", "bisect.py", "collections/__init__.py", "configparser.py", "dataclasses.py",
    "difflib.py", "enum.py", "functools.py", "inspect.py", "json/decoder.py", "statistics.py", "this.py", "turtle.py",
]  # fmt: skip
DEFINITIONS = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef

TRICKY = '''\
"""Module."""; x = 1
class A(Base, key="v"): "one line"
class B:
    # a comment before
    """Été: bytes and characters differ."""  # a comment behind
    y = """not a docstring"""

    async def f(self, a, /, b: int = 2, *c, **d) -> str:
        "implicit " \\
        'joining'
        "a second string is none"
        def inner():
            r"""Raw \\d."""
            return 1
        return inner
    def g(self): "é"; return 2
if x:
    def late():
        """Under an if.

            Indented.
        Not.
        """
def bracketed():
    ("bracketed"
     " too")
def blank(): """ """
'''


def without_docstrings(tree):
    """The tree that is to be left, by definition."""
    for node in ast.walk(tree):
        if isinstance(node, DEFINITIONS) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or ([] if isinstance(node, ast.Module) else [ast.Pass()])
    return ast.dump(tree)


@pytest.mark.parametrize("module", MODULES)
def test_code_is_the_module_with_its_docstrings_taken_out(module):
    source = (LIBRARY / module).read_text(encoding="utf-8")
    code = code_without_docstrings(source, parse_module(source))
    assert ast.dump(ast.parse(code)) == without_docstrings(parse_module(source))


def test_the_comparison_notices_a_docstring_that_is_left():
    source = "def f():\n    'doc'\n    return 1\n"
    assert ast.dump(ast.parse(source)) != without_docstrings(parse_module(source))


def test_code_keeps_comments_strings_and_layout():
    code = code_without_docstrings(TRICKY, parse_module(TRICKY))
    assert (
        code
        == '''\
x = 1
class A(Base, key="v"): pass
class B:
    # a comment before
      # a comment behind
    y = """not a docstring"""

    async def f(self, a, /, b: int = 2, *c, **d) -> str:
        "a second string is none"
        def inner():
            return 1
        return inner
    def g(self): return 2
if x:
    def late():
        pass
def bracketed():
    pass
def blank(): pass
'''
    )


def test_docstrings_stand_under_their_names_in_source_order():
    assert (
        docstrings_text("m", parse_module(TRICKY))
        == """\
module m

Module.


class m.A(Base, key='v')

one line


class m.B

Été: bytes and characters differ.


async def m.B.f(self, a, /, b: int=2, *c, **d) -> str

implicit joining


def m.B.f.inner()

Raw \\d.


def m.B.g(self)

é


def m.late()

Under an if.

    Indented.
Not.


def m.bracketed()

bracketed too
"""
    )


def test_a_module_without_docstrings_has_no_text():
    assert docstrings_text("m", parse_module("x = 1\ndef f(): return 2\n")) == ""


def test_old_escapes_raise_no_warning(recwarn):
    parse_module("x = '\\d'\n")
    assert not recwarn.list
