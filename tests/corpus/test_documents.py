import hashlib
import json
from collections import Counter

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from var_core.config.corpus import CAPTURED_SPLITS, SPLITS, FilesCorpus, Splits
from var_core.corpus import documents as documents_module
from var_core.corpus.documents import DUPLICATES, EMPTY, read_documents, write_documents
from var_core.corpus.schema import DOCUMENTS
from var_core.errors import VarError
from var_core.parquet import read_provenance, write_table

EVEN = Splits(train=0.2, capture=0.2, calibration=0.2, tuning=0.2, heldout=0.2)
ROWS = [{"text": f"text number {i}", "id": f"n{i}"} for i in range(40)]


def corpus(folder, rows=ROWS, domains=("news",), **values):
    folder.mkdir(exist_ok=True)
    paths = {}
    for domain in domains:
        path = folder / f"{domain}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        paths[domain] = (str(path),)
    return FilesCorpus(
        **{"source": "files", "format": "jsonl", "domains": paths, "name_field": "id", "splits": EVEN, **values}
    )


def written(folder, config):
    write_documents("mine", config, folder / "out", "code")
    table = pq.read_table(folder / "out" / "documents.parquet")
    return table, json.loads((folder / "out" / "manifest.json").read_text())


def test_documents_and_manifest_agree(tmp_path):
    table, manifest = written(tmp_path, corpus(tmp_path))
    assert table.schema.equals(DOCUMENTS)
    rows = table.to_pylist()
    assert [row["document"] for row in rows] == list(range(40))
    assert [(row["name"], row["text"]) for row in rows] == [(row["id"], row["text"]) for row in ROWS]
    assert manifest["documents"] == 40
    assert manifest["characters"] == sum(len(row["text"]) for row in ROWS)
    for split in SPLITS:
        chosen = [row for row in rows if row["split"] == split]
        cell = manifest["splits"][split]
        assert cell["documents"] == len(chosen) == cell["domains"]["news"]["documents"] > 0
        assert cell["characters"] == sum(len(row["text"]) for row in chosen)


def test_provenance_names_corpus_digest_config_and_code(tmp_path):
    config = corpus(tmp_path)
    _, manifest = written(tmp_path, config)
    record = read_provenance(tmp_path / "out" / "documents.parquet")
    assert record == {
        "stage": "documents",
        "corpus": "mine",
        "digest": manifest["digest"],
        "config": config.model_dump(mode="json"),
        "code": "code",
    }


def test_equal_input_gives_equal_bytes_and_other_text_another_digest(tmp_path):
    def digests(name, rows):
        (tmp_path / name).mkdir()
        write_documents("mine", corpus(tmp_path, rows), tmp_path / name, "code")
        return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in (tmp_path / name).iterdir()}

    first = digests("a", ROWS)
    assert first.keys() == {"documents.parquet", "manifest.json"}
    assert digests("b", ROWS) == first
    other = digests("c", [*ROWS[:-1], {"text": "text number 3_", "id": "n39"}])
    assert other["manifest.json"] != first["manifest.json"]


def test_empty_and_duplicate_texts_are_left_out_and_counted(tmp_path):
    rows = [
        *ROWS,
        {"text": " \n", "id": "blank"},
        {"text": None, "id": "null"},
        {"text": ROWS[3]["text"], "id": "copy"},
    ]
    table, manifest = written(tmp_path, corpus(tmp_path, rows, domains=("news", "same")))
    assert table["name"].to_pylist() == [row["id"] for row in ROWS]
    assert set(table["domain"].to_pylist()) == {"news"}
    assert manifest["left_out"] == {EMPTY: 4, DUPLICATES: 42}


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.permutations(ROWS), st.integers(30, 40))
def test_a_documents_split_does_not_depend_on_order_or_on_other_documents(tmp_path, rows, kept):
    everything, _ = written(tmp_path, corpus(tmp_path))
    some, _ = written(tmp_path, corpus(tmp_path, rows[:kept], splits=EVEN))
    reference = dict(zip(everything["name"].to_pylist(), everything["split"].to_pylist(), strict=True))
    split_of = dict(zip(some["name"].to_pylist(), some["split"].to_pylist(), strict=True))
    assert len(split_of) == kept
    assert split_of.items() <= reference.items()


def test_documents_of_one_name_are_in_one_split(tmp_path):
    rows = [{"text": f"text {i}", "id": f"book {i % 40}"} for i in range(120)]
    table, _ = written(tmp_path, corpus(tmp_path, rows))
    pairs = set(zip(table["group"].to_pylist(), table["split"].to_pylist(), strict=True))
    assert len(pairs) == 40
    assert {split for _, split in pairs} == set(SPLITS)


def test_an_empty_corpus_is_said_and_nothing_is_written(tmp_path):
    with pytest.raises(VarError, match=r"corpora\.mine: the corpus is empty; name other"):
        written(tmp_path, corpus(tmp_path, [{"text": "", "id": "a"}]))
    assert list((tmp_path / "out").iterdir()) == []


def test_a_needed_split_without_documents_is_said_and_nothing_is_written(tmp_path):
    config = corpus(tmp_path, ROWS[:3])
    with pytest.raises(VarError, match=r"corpora\.mine\.splits\.\w+: none of the 3 documents .* raise its share"):
        written(tmp_path, config)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_split_without_a_share_needs_no_documents(tmp_path):
    shares = Splits(train=0, capture=0.25, calibration=0.25, tuning=0.25, heldout=0.25)
    table, manifest = written(tmp_path, corpus(tmp_path, splits=shares))
    assert manifest["splits"]["train"] == {"documents": 0, "characters": 0, "domains": {}}
    assert Counter(table["split"].to_pylist()).keys() == set(CAPTURED_SPLITS)


def test_half_a_surrogate_pair_is_named(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a\\ud800", "id": "x"}\n')
    config = FilesCorpus(source="files", format="jsonl", domains={"news": (str(tmp_path / "a.jsonl"),)})
    with pytest.raises(VarError, match=r"document 'news/a\.jsonl:1': half of a surrogate pair at character 1"):
        written(tmp_path, config)


def test_reading_a_split_gives_its_documents_in_batches_of_bounded_size(tmp_path, monkeypatch):
    monkeypatch.setattr(documents_module, "_BATCH_CHARACTERS", 100)
    table, _ = written(tmp_path, corpus(tmp_path))
    path = tmp_path / "out" / "documents.parquet"
    read = {}
    for split in SPLITS:
        batches = list(read_documents(path, split))
        assert len(batches) > 1
        assert max(sum(len(text) for text in batch["text"].to_pylist()) for batch in batches) <= 100
        read[split] = [row for batch in batches for row in batch.to_pylist()]
        assert read[split] == [row for row in table.to_pylist() if row["split"] == split]
    assert sum(map(len, read.values())) == 40


def test_reading_something_else_is_refused(tmp_path):
    with pytest.raises(VarError, match="no such file"):
        list(read_documents(tmp_path / "none.parquet", "train"))
    table, _ = written(tmp_path, corpus(tmp_path))
    write_table(tmp_path / "other.parquet", table, {"stage": "corpus"})
    with pytest.raises(VarError, match="is not a file of documents"):
        list(read_documents(tmp_path / "other.parquet", "train"))
