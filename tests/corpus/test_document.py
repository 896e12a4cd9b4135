import pytest

from var_core.corpus.document import label_of, look_up, text_of

RECORD = {
    "text": "a",
    "meta": {"set": {"name": "web"}, "id": 7},
    "meta.id": "flat",
    "none": None,
    "empty": "",
    "yes": True,
}


def test_a_dot_reaches_into_records_but_a_field_of_that_very_name_wins():
    assert look_up(RECORD, "meta.set.name") == "web"
    assert look_up(RECORD, "meta.id") == "flat"


@pytest.mark.parametrize("field", ["other", "meta.other", "text.a", "none.a", "meta.set.name.x"])
def test_a_missing_field_is_named(field):
    with pytest.raises(KeyError) as error:
        look_up(RECORD, field)
    assert error.value.args == (field,)


def test_null_is_an_empty_text():
    assert text_of(RECORD, "none") == ""


@pytest.mark.parametrize(
    ("record", "field", "words"),
    [
        (RECORD, "meta", "field 'meta' holds a record, not text"),
        ({"a": 1}, "a", "field 'a' holds a number, not text"),
        ([1], "a", "is a list, not a record of fields"),
        (None, "a", "is null, not a record of fields"),
    ],
)
def test_what_is_not_text_is_said(record, field, words):
    with pytest.raises(TypeError, match=words):
        text_of(record, field)


def test_a_label_is_text_or_a_whole_number():
    assert label_of(RECORD, "text") == "a"
    assert label_of({"id": 7}, "id") == "7"
    for field in ("none", "empty", "yes", "meta"):
        with pytest.raises(TypeError, match="not a name"):
            label_of(RECORD, field)
