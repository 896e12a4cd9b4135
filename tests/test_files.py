import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from var_core.errors import VarError
from var_core.files import (
    canonical_json,
    digest_of,
    file_digest,
    read_json,
    remove_asides,
    write_json,
    write_text,
    written_aside,
)

few = settings(max_examples=40, deadline=None)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@few
@given(st.dictionaries(st.text(), json_values))
def test_the_digest_of_a_mapping_knows_no_order(mapping):
    backwards = dict(reversed(mapping.items()))
    assert canonical_json(mapping) == canonical_json(backwards)
    assert digest_of(mapping) == digest_of(backwards)


@few
@given(json_values, json_values)
def test_equal_digests_mean_equal_json(one, other):
    assert (digest_of(one) == digest_of(other)) == (canonical_json(one) == canonical_json(other))


@few
@given(json_values)
def test_canonical_json_keeps_the_value(value):
    assert json.loads(canonical_json(value)) == value


def test_a_digest_is_what_it_was():
    # A change here would make every result on disk look stale.
    assert canonical_json({"b": [1, 2.5, None], "a": "é"}) == '{"a":"\\u00e9","b":[1,2.5,null]}'
    assert digest_of({}) == hashlib.sha256(b"{}").hexdigest()


@pytest.mark.parametrize("value", [float("nan"), [float("inf")], {"a": float("-inf")}])
def test_what_json_cannot_say_has_no_digest(value):
    with pytest.raises(ValueError):
        digest_of(value)


def test_a_file_digest_is_that_of_its_bytes(tmp_path):
    content = os.urandom(3_000_001)
    path = tmp_path / "bytes"
    path.write_bytes(content)
    assert file_digest(path) == hashlib.sha256(content).hexdigest()
    path.write_bytes(content[:-1])
    assert file_digest(path) != hashlib.sha256(content).hexdigest()


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_written_aside_appears_when_the_block_ends(tmp_path):
    path = tmp_path / "new" / "folder" / "result.txt"
    with written_aside(path) as aside:
        aside.write_text("whole")
        assert not path.exists()
        assert aside.parent == path.parent, "a rename between file systems would not be one step"
    assert path.read_text() == "whole"
    assert names_in(path.parent) == ["result.txt"]


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_an_exception_in_the_middle_leaves_what_was_there(tmp_path, failure):
    path = tmp_path / "result.txt"
    path.write_text("old")
    with pytest.raises(failure), written_aside(path) as aside:
        aside.write_text("half")
        raise failure
    assert path.read_text() == "old"
    assert names_in(tmp_path) == ["result.txt"]


def test_an_exception_in_the_middle_leaves_no_new_file(tmp_path):
    with pytest.raises(RuntimeError), written_aside(tmp_path / "result.txt") as aside:
        aside.write_text("half")
        raise RuntimeError
    assert names_in(tmp_path) == []


def test_a_block_that_writes_nothing_is_a_fault(tmp_path):
    with pytest.raises(FileNotFoundError), written_aside(tmp_path / "result.txt"):
        pass
    assert names_in(tmp_path) == []


WRITER = """
import sys, time
from pathlib import Path
from var_core.files import written_aside

path = Path(sys.argv[1])
with written_aside(path) as aside, aside.open("w") as stream:
    for line in range(10**9):
        stream.write("half\\n")
        stream.flush()
        if line == 10:
            print("writing", flush=True)
            time.sleep(60)
"""


@pytest.mark.parametrize("before", [None, "old"])
def test_a_killed_writer_leaves_no_half_file(tmp_path, before):
    path = tmp_path / "result.txt"
    if before:
        path.write_text(before)
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout.readline() == "writing\n"
    writer.send_signal(signal.SIGKILL)
    writer.wait(timeout=30)
    writer.stdout.close()
    assert (path.read_text() if path.exists() else None) == before
    # What was written lies aside under a name that no rule and no glob of results asks for.
    assert [name for name in names_in(tmp_path) if not name.startswith(".")] == (["result.txt"] if before else [])
    with written_aside(path) as aside:
        aside.write_text("new")
    assert path.read_text() == "new"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_every_kind_of_no_room_is_one_line(tmp_path, number):
    message = rf"{tmp_path}: no room to write x \({os.strerror(number)}\)"
    with pytest.raises(VarError, match=message), written_aside(tmp_path / "x"):
        raise OSError(number, "told by the system")
    assert not list(tmp_path.iterdir())


def test_other_faults_of_the_disk_are_not_called_full(tmp_path):
    with pytest.raises(PermissionError), written_aside(tmp_path / "x"):
        raise PermissionError(errno.EACCES, "told by the system")


def test_what_killed_writers_left_is_removed_and_nothing_else(tmp_path):
    for name in (".one.txt.12.tmp", ".one.txt.345.tmp", ".other.txt.12.tmp", "one.txt", "one.txt.12.tmp", ".one.txt"):
        (tmp_path / name).touch()
    remove_asides(tmp_path, "one.")
    assert names_in(tmp_path) == [".one.txt", ".other.txt.12.tmp", "one.txt", "one.txt.12.tmp"]
    remove_asides(tmp_path)
    assert names_in(tmp_path) == [".one.txt", "one.txt", "one.txt.12.tmp"]
    remove_asides(tmp_path / "none")


READER = """
import sys, time
from pathlib import Path

path, stop = Path(sys.argv[1]), time.monotonic() + 20
sizes = set()
print("reading", flush=True)
while time.monotonic() < stop and not path.with_suffix(".stop").exists():
    sizes.add(len(path.read_text()))
print(sorted(sizes))
"""


def test_a_reader_never_sees_a_part(tmp_path):
    path = tmp_path / "result.txt"
    write_text(path, "a" * 200_000)
    reader = subprocess.Popen([sys.executable, "-c", READER, str(path)], stdout=subprocess.PIPE, text=True)
    assert reader.stdout.readline() == "reading\n"
    stop = time.monotonic() + 0.5
    while time.monotonic() < stop:
        write_text(path, "b" * 100_000)
        write_text(path, "a" * 200_000)
    path.with_suffix(".stop").touch()
    sizes = json.loads(reader.communicate(timeout=30)[0])
    assert set(sizes) <= {100_000, 200_000}
    assert len(sizes) == 2, "the test must have read between two writes"


@few
@given(value=st.dictionaries(st.text(), json_values))
def test_json_is_read_as_it_was_written(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("json") / "value.json"
    write_json(path, value)
    assert read_json(path) == value


def test_the_same_value_gives_the_same_bytes(tmp_path):
    write_json(tmp_path / "one.json", {"b": 1, "a": 2})
    write_json(tmp_path / "two.json", {"a": 2, "b": 1})
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()


def test_nan_is_not_written(tmp_path):
    with pytest.raises(ValueError):
        write_json(tmp_path / "value.json", {"a": float("nan")})
    assert names_in(tmp_path) == []


def test_faults_of_json_files_name_the_file(tmp_path):
    with pytest.raises(VarError, match=r"none\.json: no such file; run the stage that makes it"):
        read_json(tmp_path / "none.json")
    for content in (b'{"a": ', b"", b"\xff\xfe"):
        path = tmp_path / "broken.json"
        path.write_bytes(content)
        with pytest.raises(VarError, match=r"broken\.json: not valid JSON") as caught:
            read_json(path)
        assert "\n" not in str(caught.value)
