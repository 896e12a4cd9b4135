import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from var_core.config.corpus import FilesCorpus
from var_core.corpus.files import corpus_paths, file_documents, local_patterns, stored_objects, with_copies
from var_core.errors import VarError


def read(format_, domains, **fields):
    domains = {domain: (paths,) if isinstance(paths, str) else paths for domain, paths in domains.items()}
    return list(file_documents("mine", FilesCorpus(source="files", format=format_, domains=domains, **fields)))


def error_of(format_, path, **fields):
    with pytest.raises(VarError) as error:
        read(format_, {"news": str(path)}, **fields)
    message = str(error.value)
    assert "\n" not in message
    return message


def write_lines(path, *lines):
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def test_a_file_of_several_patterns_is_listed_once(tmp_path):
    for name in ("b.txt", "a.txt", "c.md"):
        (tmp_path / name).write_text(name)
    domains = {"news": (f"{tmp_path}/*.txt", f"{tmp_path}/b.*"), "notes": (f"{tmp_path}/*.md",)}
    paths = corpus_paths("mine", domains)
    assert paths == [tmp_path / "a.txt", tmp_path / "b.txt", tmp_path / "c.md"]


def test_a_text_file_is_a_document(tmp_path):
    (tmp_path / "a" / "deep").mkdir(parents=True)
    (tmp_path / "a" / "deep" / "two.txt").write_bytes("\ufeffÉté\r\n".encode())
    (tmp_path / "a" / "one.txt.gz").write_bytes(gzip.compress(b"packed"))
    (tmp_path / "a" / "other.md").write_text("not asked for")
    documents = read("text", {"news": (f"{tmp_path}/a/**/*.txt", f"{tmp_path}/a/*.gz")})
    assert [(d.name, d.group, d.domain, d.text) for d in documents] == [
        ("news/deep/two.txt", "news/deep/two.txt", "news", "Été\r\n"),
        ("news/one.txt.gz", "news/one.txt.gz", "news", "packed"),
    ]


def test_names_do_not_depend_on_where_the_files_lie(tmp_path, monkeypatch):
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "a.txt").write_text("text")
    monkeypatch.chdir(tmp_path / "there")
    ways = (f"{tmp_path}/here/*.txt", f"{tmp_path}/here/a.txt", "*.txt", "./a.txt", "../here/[ab].txt")
    assert {read("text", {"news": way})[0].name for way in ways} == {"news/a.txt"}


def test_a_file_that_two_patterns_match_is_read_once(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    assert len(read("text", {"news": (f"{tmp_path}/a.txt", f"{tmp_path}/*.txt")})) == 1


def test_a_file_in_two_domains_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(VarError, match=r"corpora\.mine\.domains\.law: .*a\.txt is in domain news too"):
        read("text", {"news": f"{tmp_path}/a.txt", "law": f"{tmp_path}/*.txt"})


@pytest.mark.parametrize("pack", [False, True])
def test_a_json_line_is_a_document(tmp_path, pack):
    data = b'{"text": "a", "id": 5}\n\n{"text": null, "id": "x"}\n{"text": "\\u00e9", "id": 6}'
    path = tmp_path / ("rows.jsonl.gz" if pack else "rows.jsonl")
    path.write_bytes(gzip.compress(data) if pack else data)
    rows = read("jsonl", {"news": str(path)})
    assert [(d.name, d.text) for d in rows] == [(f"news/{path.name}:{n}", t) for n, t in ((1, "a"), (3, ""), (4, "é"))]
    named = read("jsonl", {"news": str(path)}, name_field="id")
    assert [(d.name, d.group) for d in named] == [("5", "5"), ("x", "x"), ("6", "6")]


def test_a_parquet_row_is_a_document_also_across_batches(tmp_path):
    table = pa.table({"meta": [{"body": f"text {i}", "id": i} for i in range(600)], "other": range(600)})
    pq.write_table(table, tmp_path / "rows.parquet", row_group_size=100)
    documents = read("parquet", {"news": f"{tmp_path}/*.parquet"}, text_field="meta.body")
    assert [d.text for d in documents] == [f"text {i}" for i in range(600)]
    assert [d.name for d in documents] == [f"news/rows.parquet:{i}" for i in range(1, 601)]
    assert read("parquet", {"n": f"{tmp_path}/*"}, text_field="meta.body", name_field="meta.id")[9].name == "9"


def test_a_pattern_that_matches_nothing_is_named_before_anything_is_read(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xff")
    with pytest.raises(VarError, match=r"corpora\.mine\.domains\.law: .*none\*\.txt matches no file"):
        read("text", {"news": f"{tmp_path}/a.txt", "law": f"{tmp_path}/none*.txt"})


def test_a_folder_is_not_a_file(tmp_path):
    assert "is a folder; name its files" in error_of("text", tmp_path)


def test_what_is_not_utf8_is_named_with_its_byte(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("é".encode() + b"abc\xff")
    assert f"{path}: not UTF-8 at byte 5;" in error_of("text", path)
    packed = tmp_path / "a.txt.gz"
    packed.write_bytes(gzip.compress(b"abc\xff"))
    assert f"{packed}: not UTF-8 at byte 3 (of the decompressed text)" in error_of("text", packed)
    lines = tmp_path / "a.jsonl"
    lines.write_bytes(b'{"text": "a"}\n{"text": "\xe9"}\n')
    assert f"{lines}: not UTF-8 at byte {14 + 10};" in error_of("jsonl", lines)


def test_what_is_not_json_is_named_with_its_line(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", '{"text": "a"}', "", "{text}")
    assert f"{path}: line 3 is not JSON" in error_of("jsonl", path)
    deep = write_lines(tmp_path / "deep.jsonl", "[" * 100_000)
    assert f"{deep}: line 1 is not JSON" in error_of("jsonl", deep)


def test_a_missing_field_is_named_with_its_row_and_key(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", '{"text": "a", "id": 1}', '{"body": "b"}')
    message = error_of("jsonl", path)
    assert f"{path}: row 2 has no field 'text'; set corpora.mine.text_field" in message
    assert "row 2 has no field 'id'; set corpora.mine.name_field" in error_of(
        "jsonl", write_lines(path, '{"text": "a", "id": 1}', '{"text": "b"}'), name_field="id"
    )


def test_what_is_no_record_or_no_text_is_named_with_its_row(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", '{"text": "a"}', "[1]")
    assert f"{path}: row 2 is a list, not a record" in error_of("jsonl", path)
    assert "row 1 field 'text' holds a number" in error_of("jsonl", write_lines(path, json.dumps({"text": 1})))


def test_a_parquet_file_without_the_column_names_those_it_has(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"body": ["a"], "id": [1]}), path)
    assert f"{path}: has no column 'text', only body, id; set corpora.mine.text_field" in error_of("parquet", path)
    assert "has no column 'name', only body, id; set corpora.mine.name_field" in error_of(
        "parquet", path, text_field="body", name_field="name"
    )


@pytest.mark.parametrize(("format_", "name"), [("text", "a.txt.gz"), ("jsonl", "a.jsonl.gz"), ("parquet", "a.parquet")])
def test_damaged_files_are_named(tmp_path, format_, name):
    path = tmp_path / name
    path.write_bytes(b"neither gzip nor Parquet")
    assert f"{path}: cannot be read" in error_of(format_, path)


def test_a_gzip_file_that_ends_early_is_named(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"text": "a"}\n' * 1000)[:-10])
    assert f"{path}: cannot be read" in error_of("jsonl", path)


def test_an_address_is_read_from_its_copy_and_from_nowhere_else(tmp_path):
    copy = tmp_path / "key [1].txt"
    copy.write_text("stored")
    (tmp_path / "own.txt").write_text("own")
    domains = {"prose": ("s3://bucket/key [1].txt", str(tmp_path / "own.txt"))}
    assert stored_objects(domains) == ["s3://bucket/key [1].txt"]
    assert local_patterns(domains) == {"prose": [str(tmp_path / "own.txt")]}
    with_copy = with_copies(domains, {"s3://bucket/key [1].txt": str(copy)})
    config = FilesCorpus(source="files", format="text", domains=with_copy)
    assert [document.text for document in file_documents("mine", config)] == ["stored", "own"]
    with pytest.raises(VarError, match=r"corpora\.mine\.domains\.prose: s3://bucket/key \[1\]\.txt is no local file"):
        list(file_documents("mine", FilesCorpus(source="files", format="text", domains=domains)))
