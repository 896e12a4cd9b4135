import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from var_core.config.corpus import HubCorpus
from var_core.corpus.hub import ONE_DOMAIN, hub_documents
from var_core.errors import VarError

ROWS = [{"text": f"text {i}", "id": f"n{i}", "meta": {"set": "web" if i % 2 else "books"}} for i in range(6)]


@pytest.fixture(params=["jsonl", "parquet"])
def dataset(request, tmp_path, monkeypatch):
    """A data set in a local folder called owner/name, which the library loads like one from the hub."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "owner" / "name"
    folder.mkdir(parents=True)
    if request.param == "jsonl":
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    else:
        pq.write_table(pa.Table.from_pylist(ROWS), folder / "rows.parquet")
    return "owner/name"


def read(dataset, **settings):
    config = HubCorpus(**{"source": "hub", "dataset": dataset, "revision": "0" * 40, "max_documents": 10, **settings})
    return list(hub_documents("mine", config))


def error_of(dataset, **settings):
    with pytest.raises(VarError) as error:
        read(dataset, **settings)
    message = str(error.value)
    assert "\n" not in message
    return message


def test_rows_are_documents(dataset):
    documents = read(dataset)
    assert [d.text for d in documents] == [row["text"] for row in ROWS]
    assert [d.name for d in documents] == [d.group for d in documents] == ["1", "2", "3", "4", "5", "6"]
    assert {d.domain for d in documents} == {ONE_DOMAIN}


def test_names_and_domains_come_from_fields(dataset):
    documents = read(dataset, name_field="id", domain_field="meta.set", max_documents=3)
    assert [(d.name, d.group, d.domain) for d in documents] == [
        ("n0", "n0", "books"),
        ("n1", "n1", "web"),
        ("n2", "n2", "books"),
    ]


@pytest.mark.parametrize("key", ["text_field", "name_field", "domain_field"])
def test_a_missing_field_is_named_with_its_key(dataset, key):
    message = error_of(dataset, **{key: "meta.other"})
    assert f"{dataset}: row 1 has no field 'meta.other' (it has text, id, meta); set corpora.mine.{key}" in message


def test_a_field_of_another_kind_is_said(dataset):
    assert "row 1 field 'meta' holds a record, not text; choose other fields in corpora.mine" in error_of(
        dataset, text_field="meta"
    )


def test_a_split_or_name_that_the_data_set_lacks_is_said(dataset):
    assert "split validation): Bad split" in error_of(dataset, split="validation")
    assert "(name en, split train)" in error_of(dataset, name="en")


def test_a_data_set_that_cannot_be_reached_is_one_line():
    message = error_of("nobody/nothing")
    assert message.startswith("corpora.mine.dataset: cannot read data set nobody/nothing at revision 000")
    assert "check these keys and the connection" in message


def test_a_damaged_file_of_the_data_set_is_said(dataset):
    for file in Path(dataset).iterdir():
        file.write_bytes(b'{"text": "a"}\nnot json\n')
    assert f"cannot read folder {dataset}" in error_of(dataset)
