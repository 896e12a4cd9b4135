import json
import shutil

import numpy as np
import pytest
from tokenizers import processors
from transformers import AutoTokenizer

from var_core.corpus.documents import read_documents
from var_core.corpus.tokenise import DocumentTokenizer, tokenised_documents
from var_core.corpus.tokenizer import END_OF_TEXT
from var_core.errors import VarError

TEXT = "def fill(text):\n    return text"


@pytest.fixture
def variant(tmp_path, tokenizer_folder):
    """A function that saves a changed copy of the small tokenizer."""

    def save(change=lambda tokenizer: None, **special):
        tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
        for name, token in special.items():
            setattr(tokenizer, name, token)
        change(tokenizer)
        folder = tmp_path / "variant"
        shutil.rmtree(folder, ignore_errors=True)
        tokenizer.save_pretrained(folder)
        return DocumentTokenizer(folder)

    return save


def plain(tokenizer, text):
    return tokenizer.tokenizer(text, add_special_tokens=False)["input_ids"]


def test_bos_comes_before_every_document_and_nothing_after(tokenizer_folder):
    tokenizer = DocumentTokenizer(tokenizer_folder)
    assert tokenizer.boundary == "bos"
    for ids, text in zip(tokenizer.encode([TEXT, "a"]), [TEXT, "a"], strict=True):
        assert ids.dtype == np.int32
        assert ids.tolist() == [tokenizer.boundary_id, *plain(tokenizer, text)]


def test_a_template_that_adds_bos_too_gives_no_second_one(variant):
    def add_template(tokenizer):
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{END_OF_TEXT} $A {END_OF_TEXT}", special_tokens=[(END_OF_TEXT, tokenizer.bos_token_id)]
        )

    tokenizer = variant(add_template)
    ids = tokenizer.encode([TEXT])[0].tolist()
    assert ids.count(tokenizer.boundary_id) == 1
    # Control: the template does add two when it is asked to.
    assert tokenizer.tokenizer.backend_tokenizer.encode(TEXT).ids.count(tokenizer.boundary_id) == 2


def test_without_bos_eos_ends_every_document(variant):
    tokenizer = variant(bos_token=None)
    assert tokenizer.boundary == "eos"
    assert tokenizer.encode([TEXT])[0].tolist() == [*plain(tokenizer, TEXT), tokenizer.tokenizer.eos_token_id]


def test_without_both_documents_have_no_boundary_token(variant):
    tokenizer = variant(bos_token=None, eos_token=None)
    assert (tokenizer.boundary, tokenizer.boundary_id) == ("none", None)
    assert tokenizer.encode([TEXT])[0].tolist() == plain(tokenizer, TEXT)


def test_the_name_of_a_special_token_in_a_text_is_text(tokenizer_folder):
    tokenizer = DocumentTokenizer(tokenizer_folder)
    ids = tokenizer.encode([f"a {END_OF_TEXT} b"])[0]
    assert (ids == tokenizer.boundary_id).sum() == 1
    # Control: left to itself, the tokenizer takes the text for the token.
    fresh = AutoTokenizer.from_pretrained(tokenizer_folder)
    assert fresh(f"a {END_OF_TEXT} b", add_special_tokens=False)["input_ids"].count(tokenizer.boundary_id) == 1


def test_truncation_and_padding_of_the_folder_are_not_applied(variant):
    def cut_and_fill(tokenizer):
        tokenizer.backend_tokenizer.enable_truncation(4)
        tokenizer.backend_tokenizer.enable_padding(length=64)

    tokenizer = variant(cut_and_fill)
    reference = variant().encode([TEXT])[0]
    assert 5 < len(reference) < 64
    assert np.array_equal(tokenizer.encode([TEXT])[0], reference)


def test_the_digest_changes_with_what_decides_about_tokens(variant, tokenizer_folder):
    first = DocumentTokenizer(tokenizer_folder).digest
    assert DocumentTokenizer(tokenizer_folder).digest == first
    assert variant().digest == first
    assert variant(bos_token=None).digest != first
    assert variant(lambda tokenizer: tokenizer.add_tokens(["fill"])).digest != first


def test_special_tokens_are_listed_with_their_ids(variant):
    tokenizer = variant(lambda tokenizer: tokenizer.add_special_tokens({"extra_special_tokens": ["<mark>"]}))
    assert tokenizer.special_tokens() == {END_OF_TEXT: 0, "<mark>": 400}


def test_documents_come_in_order_in_batches_of_one_domain(small_documents, tokenizer_folder):
    tokenizer = DocumentTokenizer(tokenizer_folder)
    rows = [row for batch in read_documents(small_documents, "capture") for row in batch.to_pylist()]
    expected = {row["document"]: tokenizer.encode([row["text"]])[0] for row in rows}
    domain_of = {row["document"]: row["domain"] for row in rows}
    found = []
    for batch in tokenised_documents(small_documents, "capture", tokenizer):
        pieces = np.split(batch.tokens, np.cumsum(batch.lengths)[:-1])
        for number, piece in zip(batch.documents.tolist(), pieces, strict=True):
            assert domain_of[number] == batch.domain
            assert np.array_equal(piece, expected[number])
            found.append((batch.domain, number))
    assert sorted(number for _, number in found) == sorted(expected)
    for domain in ("code", "prose"):
        numbers = [number for of, number in found if of == domain]
        assert numbers == sorted(numbers)


def test_a_folder_without_a_tokenizer_is_named(tmp_path):
    with pytest.raises(VarError, match="no such folder"):
        DocumentTokenizer(tmp_path / "none")
    (tmp_path / "config.json").write_text('{"model_type": "mixtral"}')
    with pytest.raises(VarError, match=f"{tmp_path}: no tokenizer can be loaded .*; add tokenizer.json") as error:
        DocumentTokenizer(tmp_path)
    assert "\n" not in str(error.value)


def test_a_slow_tokenizer_is_refused(tmp_path):
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "ByT5Tokenizer"}))
    with pytest.raises(VarError, match="ByT5Tokenizer is a slow tokenizer; add"):
        DocumentTokenizer(tmp_path)
