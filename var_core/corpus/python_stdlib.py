"""Text that every Python installation carries: language reference, docstrings and code of its standard library."""

import ast
import importlib
import itertools
import os
import re
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path

from var_core.corpus.document import Document, LeftOut
from var_core.corpus.python_text import code_without_docstrings, docstrings_text, parse_module
from var_core.errors import VarError

_TEST_FOLDERS = frozenset({"test", "tests", "idle_test"})
_SAMPLE_MODULES = frozenset({"__hello__", "__phello__"})
_SHARED_PASSAGE_CHARACTERS = 80

TESTS = "files of tests"
SAMPLES = "sample modules of the import system"
MACHINE_SETTINGS = "files of build settings, which differ between machines"
TOPICS_FILE = "file of the language reference (domain reference has it)"
CHARACTER_TABLES = "generated character tables in encodings"
ENTITY_TABLE = "table of the character entities of HTML"
NOT_UTF8 = "files that are not UTF-8"
NOT_PARSED = "files that do not parse"
NO_DOCSTRING = "modules without a docstring"
SHARED_PASSAGES = "passages of reference topics that a shorter topic has too"


def stdlib_documents(
    corpus: str, domains: tuple[str, ...], left_out: LeftOut, folder: Path | None = None
) -> Iterator[Document]:
    """Yield the documents of the running Python's standard library, domain by domain, sorted by name.

    ``reference`` has a document a topic of ``pydoc_data.topics``, ``docstrings`` and ``code`` one a module. The
    group of a module is its top-level package, so that what belongs together (a module's docstrings and its
    code, and variants of one module within a package) is in one split.

    Parameters
    ----------
    corpus : str
        Name of the corpus, for messages.
    domains : tuple of str
        Any of ``reference``, ``docstrings`` and ``code``.
    left_out : LeftOut
        Counts what is left out, by reason.
    folder : Path, optional
        Folder of the library; that of the running Python if not given.

    Raises
    ------
    VarError
        If this Python came without its sources or without its reference.
    """
    if "reference" in domains:
        yield from _reference(_topics(corpus), left_out)
    if set(domains) == {"reference"}:
        return
    modules = sorted(_modules(folder or Path(sysconfig.get_path("stdlib")), left_out))
    if not modules:
        raise VarError(f"corpora.{corpus}.domains: this Python came without library sources; leave only reference")
    for module, path in modules:
        yield from _module_documents(module, path, domains, left_out)


def _module_documents(module: str, path: Path, domains: tuple[str, ...], left_out: LeftOut) -> Iterator[Document]:
    """Yield the docstrings and the code of one module."""
    try:
        source = path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError:
        left_out[NOT_UTF8] += 1
        return
    try:
        tree = parse_module(source)
    except (SyntaxError, ValueError, RecursionError):
        left_out[NOT_PARSED] += 1
        return
    group = module.partition(".")[0]
    if group == "encodings" and _is_character_table(tree):
        left_out[CHARACTER_TABLES] += 1
        return
    if module == "html.entities":
        # One table of 2,000 lines would be a twentieth of the held-out text.
        left_out[ENTITY_TABLE] += 1
        return
    if "docstrings" in domains:
        if text := docstrings_text(module, tree):
            yield Document(f"docstrings/{module}", group, "docstrings", text)
        else:
            left_out[NO_DOCSTRING] += 1
    if "code" in domains:
        yield Document(f"code/{module}", group, "code", code_without_docstrings(source, tree))


def _modules(folder: Path, left_out: LeftOut) -> Iterator[tuple[str, Path]]:
    """Yield the dotted name and the file of every module that is text to us."""
    for place, folders, files in os.walk(folder):
        sources = [file for file in files if file.endswith(".py")]
        parts = Path(place).relative_to(folder).parts
        if _TEST_FOLDERS & set(parts):
            left_out[TESTS] += len(sources)
            continue
        # Installed packages, compiled files and build settings lie in folders that cannot be Python packages.
        folders[:] = [name for name in folders if name.isidentifier() and name != "__pycache__"]
        for file in sources:
            module = ".".join((*parts, file.removesuffix(".py"))).removesuffix(".__init__")
            if reason := _reason_to_leave_out(module):
                left_out[reason] += 1
            else:
                yield module, Path(place, file)


def _reason_to_leave_out(module: str) -> str | None:
    if module.partition(".")[0] in _SAMPLE_MODULES:
        return SAMPLES
    if module.startswith("_sysconfigdata"):
        return MACHINE_SETTINGS
    return TOPICS_FILE if module == "pydoc_data.topics" else None


def _is_character_table(tree: ast.Module) -> bool:
    """Say whether an encoding's module is one of those generated from a table, which all read the same."""
    names = {
        target.id
        for statement in tree.body
        if isinstance(statement, ast.Assign)
        for target in statement.targets
        if isinstance(target, ast.Name)
    }
    return bool(names & {"decoding_table", "decoding_map"})


def _topics(corpus: str) -> Mapping[str, str]:
    try:
        topics: Mapping[str, str] = importlib.import_module("pydoc_data.topics").topics
    except ImportError:
        raise VarError(
            f"corpora.{corpus}.domains: this Python came without pydoc_data.topics; leave out reference"
        ) from None
    return topics


def _reference(topics: Mapping[str, str], left_out: LeftOut) -> Iterator[Document]:
    for topic, text in sorted(_without_shared_passages(topics, left_out).items()):
        yield Document(f"reference/{topic}", topic, "reference", text)


def _without_shared_passages(topics: Mapping[str, str], left_out: LeftOut) -> dict[str, str]:
    """Keep every passage in the shortest topic that has it.

    Long topics are chapters whose sections are topics too, word for word. Left as they are, the same text
    would be in several documents, and so in several splits. A passage is a paragraph of at least 80
    characters, white space apart; shorter ones (headings) go with it when they stand between two that go.
    """
    seen: set[str] = set()
    kept = {}
    for topic, text in sorted(topics.items(), key=lambda pair: (len(pair[1]), pair[0])):
        paragraphs = re.split(r"\n[ \t]*\n", text)
        plain = [" ".join(paragraph.split()) for paragraph in paragraphs]
        long = [index for index, words in enumerate(plain) if len(words) >= _SHARED_PASSAGE_CHARACTERS]
        gone = {index for index in long if plain[index] in seen}
        left_out[SHARED_PASSAGES] += len(gone)
        edges = {-1, len(plain)}
        short_between = [
            range(before + 1, after)
            for before, after in itertools.pairwise([-1, *long, len(plain)])
            if {before, after} <= gone | edges and not {before, after} <= edges
        ]
        gone.update(itertools.chain.from_iterable(short_between))
        seen.update(plain[index] for index in long)
        kept[topic] = "\n\n".join(paragraph for index, paragraph in enumerate(paragraphs) if index not in gone)
    return kept
