import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from var_core.corpus.schema import VOCABULARY
from var_core.corpus.tokenise import DocumentTokenizer
from var_core.corpus.tokenizer import END_OF_TEXT
from var_core.corpus.vocabulary import vocabulary_table


@pytest.fixture(scope="module")
def table(tokenizer_folder):
    return vocabulary_table(DocumentTokenizer(tokenizer_folder))


def test_every_token_has_a_row(table):
    assert table.schema.equals(VOCABULARY)
    assert table["token_id"].to_pylist() == list(range(400))


def test_only_special_tokens_are_flagged(table):
    flagged = [row["token"] for row in table.to_pylist() if row["special"]]
    assert flagged == [END_OF_TEXT]


def test_tokens_read_as_text_and_none_twice(table):
    tokens = table["token"].to_pylist()
    assert {" the", "\n", " ", "a", "self"} <= set(tokens)
    assert len(set(tokens)) == len(tokens)
    # In the tokenizer's own notation these are the bytes of "é"; neither is a character alone.
    assert {"\\xc3", "\\xa9"} <= set(tokens)
    assert not {"Ã", "©", "Ġthe", "Ċ"} & set(tokens)


def test_the_space_before_a_word_stays_with_metaspace_tokenizers(tmp_path):
    vocabulary = {"<unk>": 0, "\u2581the": 1, "the": 2, "<0xE2>": 3, "</s>": 5}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>").save_pretrained(tmp_path)
    rows = vocabulary_table(DocumentTokenizer(tmp_path)).to_pylist()
    assert [tuple(row.values()) for row in rows] == [
        (0, "<unk>", True),
        (1, " the", False),
        (2, "the", False),
        (3, "<0xE2>", False),
        (5, "</s>", True),
    ]
