import re
import sys
from collections import Counter
from pydoc_data.topics import topics

import pytest

from var_core.corpus import python_stdlib
from var_core.corpus.document import LeftOut
from var_core.corpus.python_stdlib import stdlib_documents
from var_core.errors import VarError

MODULE = '"""About {name}."""\nvalue = 1\n'


@pytest.fixture
def library(tmp_path):
    """A standard library in small, with one of everything that is left out."""
    folder = tmp_path / "lib"
    for path in (
        "plain.py", "package/__init__.py", "package/part.py", "package/deep/leaf.py", "package/tests/test_part.py",
        "test/support/__init__.py", "test/more.py", "idlelib/idle_test/x.py", "site-packages/numpy/__init__.py",
        "lib-dynload/x.py", "config-3.11/python-config.py", "__pycache__/x.py", "__phello__/spam.py", "__hello__.py",
        "_sysconfigdata__linux.py", "pydoc_data/topics.py", "encodings/utf_8.py",
    ):  # fmt: skip
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(MODULE.format(name=path), encoding="utf-8")
    (folder / "encodings/cp037.py").write_text('"""Doc."""\ndecoding_table = "abc"\n', encoding="utf-8")
    (folder / "tables.py").write_text('"""Doc."""\ndecoding_table = "abc"\n', encoding="utf-8")
    (folder / "latin.py").write_bytes(b"# coding: latin-1\nname = '\xe9'\n")
    (folder / "broken.py").write_text("def f(:\n", encoding="utf-8")
    (folder / "silent.py").write_text("value = 2\n", encoding="utf-8")
    (folder / "windows.py").write_bytes(b'"""Doc.\r\n\r\nMore."""\r\nvalue = 3\r\n')
    return folder


def read(library, domains=("docstrings", "code")):
    left_out = LeftOut()
    return list(stdlib_documents("mine", domains, left_out, library)), left_out


def test_modules_are_read_and_all_else_is_left_out_and_counted(library):
    documents, left_out = read(library)
    modules = {"plain", "package", "package.part", "package.deep.leaf", "encodings.utf_8", "tables", "windows"}
    assert {d.name for d in documents if d.domain == "docstrings"} == {f"docstrings/{name}" for name in modules}
    assert {d.name for d in documents if d.domain == "code"} == {f"code/{name}" for name in modules | {"silent"}}
    assert left_out == {
        python_stdlib.TESTS: 4,
        python_stdlib.SAMPLES: 2,
        python_stdlib.MACHINE_SETTINGS: 1,
        python_stdlib.TOPICS_FILE: 1,
        python_stdlib.CHARACTER_TABLES: 1,
        python_stdlib.NOT_UTF8: 1,
        python_stdlib.NOT_PARSED: 1,
        python_stdlib.NO_DOCSTRING: 1,
    }


def test_a_package_is_one_group_in_both_domains(library):
    documents, _ = read(library)
    groups = {d.name: d.group for d in documents}
    assert {groups[name] for name in groups if "package" in name} == {"package"}
    assert groups["code/plain"] == groups["docstrings/plain"] == "plain"


def test_no_text_is_in_two_domains(library):
    documents, _ = read(library)
    texts = {d.name: d.text for d in documents}
    assert texts["docstrings/plain"] == "module plain\n\nAbout plain.py.\n"
    assert texts["code/plain"] == "value = 1\n"
    assert texts["docstrings/windows"] == "module windows\n\nDoc.\n\nMore.\n"
    assert texts["code/windows"] == "value = 3\n"


def test_modules_are_read_but_not_run(library):
    (library / "trap.py").write_text("raise SystemExit('imported')\n", encoding="utf-8")
    documents, _ = read(library, ("code",))
    assert "code/trap" in {d.name for d in documents}


def test_order_does_not_depend_on_the_file_system(library):
    names = [d.name for d in read(library, ("code",))[0]]
    assert names == sorted(names)


def test_a_library_without_sources_is_said(tmp_path):
    with pytest.raises(VarError, match=r"corpora\.mine\.domains: .* leave only reference"):
        read(tmp_path)


def passages(text):
    plain = [" ".join(part.split()) for part in re.split(r"\n[ \t]*\n", text)]
    return {part for part in plain if len(part) >= 80}


def shared(texts):
    counts = Counter(passage for text in texts for passage in passages(text))
    return sum(count > 1 for count in counts.values())


def test_no_passage_of_the_reference_is_in_two_documents():
    left_out = LeftOut()
    documents = list(stdlib_documents("mine", ("reference",), left_out))
    assert shared(d.text for d in documents) == 0
    assert {d.group for d in documents} == set(topics)
    # Control: as it comes, the reference repeats itself, and what is left has every passage once.
    assert shared(topics.values()) > 100
    everything = set().union(*(passages(text) for text in topics.values()))
    assert set().union(*(passages(d.text) for d in documents)) == everything
    assert left_out[python_stdlib.SHARED_PASSAGES] == sum(len(passages(t)) for t in topics.values()) - len(everything)


def test_a_python_without_its_reference_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(VarError, match=r"corpora\.mine\.domains: .* leave out reference"):
        list(stdlib_documents("mine", ("reference",), LeftOut()))
