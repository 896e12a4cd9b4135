import pytest
from pydantic import ValidationError

from var_core.config.corpus import FilesCorpus, HubCorpus, PythonStdlibCorpus, SequencesConfig, Splits

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_splits_sum_to_one():
    splits = Splits(train=0.1, capture=0.2, calibration=0.1, tuning=0.1, heldout=0.5)
    assert sum(splits.model_dump().values()) == pytest.approx(1)
    said = r"train 0.1 \+ capture 0.2 \+ calibration 0.09 \+ tuning 0.1 \+ heldout 0.26 make 0.75, not 1; give all 5"
    with pytest.raises(ValidationError, match=said):
        Splits(train=0.1)


@pytest.mark.parametrize("split", ["capture", "calibration", "tuning", "heldout"])
def test_no_statistics_without_text(split):
    shares = {"train": 0.2, "capture": 0.2, "calibration": 0.2, "tuning": 0.2, "heldout": 0.2, split: 0.0}
    with pytest.raises(ValidationError, match="greater than 0"):
        Splits(**shares)


def test_only_the_corpus_of_the_demo_model_keeps_text_for_training():
    assert PythonStdlibCorpus(source="python-stdlib").splits == Splits()
    assert Splits().train > 0
    hub = HubCorpus(source="hub", dataset="allenai/c4", revision=COMMIT, max_documents=1)
    assert hub.splits.train == 0


def test_a_domain_counts_once():
    with pytest.raises(ValidationError, match="names 'code' twice"):
        PythonStdlibCorpus(source="python-stdlib", domains=("code", "reference", "code"))


def test_a_domain_of_files_needs_a_path():
    with pytest.raises(ValidationError):
        FilesCorpus(source="files", format="text", domains={"books": ()})
    with pytest.raises(ValidationError):
        FilesCorpus(source="files", format="text", domains={})


def test_a_hub_corpus_says_where_its_commits_are_listed():
    with pytest.raises(ValidationError, match=r"git ls-remote https://huggingface.co/datasets/allenai/c4 HEAD"):
        HubCorpus(source="hub", dataset="allenai/c4", revision="main", max_documents=1)


def test_sequences_have_a_least_length():
    with pytest.raises(ValidationError):
        SequencesConfig(length=4)
