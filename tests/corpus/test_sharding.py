import hashlib
import itertools
import json
from collections import Counter, defaultdict
from dataclasses import dataclass

import numpy as np
import pyarrow.parquet as pq
import pytest

from var_core.config.capture import MicroShards, Shards
from var_core.config.corpus import CAPTURED_SPLITS as SPLITS
from var_core.config.corpus import MaxTokens, SequencesConfig
from var_core.corpus.schema import VOCABULARY
from var_core.corpus.sharding import write_token_shards
from var_core.corpus.shards import TokenShard
from var_core.corpus.tokenise import DocumentTokenizer, tokenised_documents
from var_core.errors import VarError

SHARDS = {"capture": 3, "calibration": 1, "tuning": 1, "heldout": 2}
MICRO_SHARDS = {"capture": 6, "calibration": 2, "tuning": 1, "heldout": 4}
LENGTH = 16


@pytest.fixture
def write(tmp_path, small_documents, tokenizer_folder):
    """A function that writes shards and returns them by split, and the manifest."""

    def run(
        folder="shards",
        length=LENGTH,
        shards=SHARDS,
        micro_shards=MICRO_SHARDS,
        limits=None,
        positions=512,
        isolate=True,
    ):
        output = tmp_path / folder
        write_token_shards(
            documents=small_documents,
            model_folder=tokenizer_folder,
            run="tiny/small",
            sequences=SequencesConfig(length=length, isolate_documents=isolate),
            shards=Shards(**shards),
            micro_shards=MicroShards(**micro_shards),
            max_tokens=MaxTokens(**(limits or {})),
            model_max_positions=positions,
            output=output,
            code="code",
        )
        manifest = json.loads((output / "manifest.json").read_text())
        names = {split: [shard["file"] for shard in manifest["splits"][split]["shards"]] for split in SPLITS}
        return {split: [whole(output / name) for name in names[split]] for split in SPLITS}, manifest

    return run


@pytest.fixture(scope="module")
def lines(small_documents, tokenizer_folder):
    """All tokens and their documents, by split and domain, before packing."""
    tokenizer = DocumentTokenizer(tokenizer_folder)
    found = defaultdict(lambda: ([], []))
    for split in SPLITS:
        for batch in tokenised_documents(small_documents, split, tokenizer):
            tokens, owners = found[split, batch.domain]
            tokens.extend(batch.tokens.tolist())
            owners.extend(np.repeat(batch.documents, batch.lengths).tolist())
    return found


@dataclass(frozen=True)
class Whole:
    """All of a shard."""

    provenance: dict
    domain: np.ndarray
    sequence: np.ndarray
    input_ids: np.ndarray
    document: np.ndarray


def whole(path):
    shard = TokenShard(path)
    changes = np.flatnonzero(shard.domain[1:] != shard.domain[:-1]) + 1
    borders = [0, *changes.tolist(), len(shard.domain)]
    pieces = [shard.rows(start, stop) for start, stop in itertools.pairwise(borders)]
    columns = [
        np.concatenate([getattr(piece, name) for piece in pieces]) for name in ("sequence", "input_ids", "document")
    ]
    return Whole(shard.provenance, shard.domain, *columns)


def rows_of(shards, domain):
    return [
        np.concatenate([getattr(shard, name)[shard.domain == domain] for shard in shards])
        for name in ("input_ids", "document", "sequence")
    ]


def test_shards_hold_every_token_of_the_split_in_order_but_the_dropped_ends(write, lines):
    written, manifest = write()
    for split in SPLITS:
        for domain in ("code", "prose"):
            tokens, owners = lines[split, domain]
            input_ids, document, _ = rows_of(written[split], domain)
            whole = len(tokens) // LENGTH * LENGTH
            assert input_ids.ravel().tolist() == tokens[:whole]
            assert document.ravel().tolist() == owners[:whole]
            assert manifest["splits"][split]["domains"][domain] == {
                "documents": len(set(owners[:whole])),
                "documents_read": len(set(owners)),
                "sequences": whole // LENGTH,
                "tokens": whole,
                "tokens_read": len(tokens),
                "tokens_dropped_at_end": len(tokens) - whole,
                "tokens_dropped_by_limit": 0,
            }


def test_a_document_is_in_the_split_and_domain_that_documents_parquet_says(write, small_documents):
    written, _ = write()
    rows = pq.read_table(small_documents, columns=["document", "split", "domain"]).to_pylist()
    where = {row["document"]: (row["split"], row["domain"]) for row in rows}
    for split in SPLITS:
        for shard in written[split]:
            for domain, documents in zip(shard.domain, shard.document, strict=True):
                assert {where[number] for number in documents.tolist()} == {(split, domain)}


def test_sequences_are_numbered_through_the_shards_and_every_shard_has_its_share(write):
    written, manifest = write()
    for split in SPLITS:
        shards = written[split]
        assert len(shards) == SHARDS[split]
        numbers = np.concatenate([shard.sequence for shard in shards])
        assert numbers.tolist() == list(range(manifest["splits"][split]["sequences"]))
        for shard in shards:
            start = 0
            for each in shard.provenance["micro_shards"]:
                domains = shard.domain[start : start + each["sequences"]].tolist()
                assert domains == sorted(domains) and shard.sequence[start] == each["first"]
                start += each["sequences"]
            assert start == len(shard.domain)
        for domain in ("code", "prose"):
            counts = [int((shard.domain == domain).sum()) for shard in shards]
            each = MICRO_SHARDS[split] // SHARDS[split]
            assert max(counts) - min(counts) <= each, "micro-shards differ by one sequence"


def test_micro_shards_do_not_depend_on_the_number_of_shards(write, tmp_path):
    """So with another number of jobs nothing need be captured again."""
    contents = []
    for more in ({"capture": 2, "heldout": 1}, {"calibration": 2}, {"capture": 6, "heldout": 4}):
        shards = SHARDS | more
        _, manifest = write(f"{shards}", shards=shards)
        contents.append(
            [[m for s in manifest["splits"][split]["shards"] for m in s["micro_shards"]] for split in SPLITS]
        )
        assert [len(each) for each in contents[-1]] == list(MICRO_SHARDS.values())
    assert contents[0] == contents[1] == contents[2]
    assert len({each["content"] for each in contents[0][0]}) == MICRO_SHARDS["capture"]


def test_provenance_and_manifest_say_what_a_shard_was_made_from(write, tmp_path, small_documents, tokenizer_folder):
    written, manifest = write(isolate=False)
    corpus = json.loads((small_documents.parent / "manifest.json").read_text())
    for split in SPLITS:
        for number, (shard, listed) in enumerate(zip(written[split], manifest["splits"][split]["shards"], strict=True)):
            assert shard.provenance == {
                "stage": "corpus",
                "run": "tiny/small",
                "split": split,
                "shard": number,
                "corpus": {"name": "small", "digest": corpus["digest"]},
                "tokenizer": DocumentTokenizer(tokenizer_folder).digest,
                "sequence_length": LENGTH,
                "isolate_documents": False,
                "tokens": shard.input_ids.size,
                "content": listed["content"],
                "micro_shards": listed["micro_shards"],
                "config": {
                    "sequences": {"length": LENGTH, "isolate_documents": False},
                    "shards": SHARDS,
                    "micro_shards": MICRO_SHARDS,
                    "max_tokens": dict.fromkeys(SPLITS),
                },
                "code": "code",
            }
            assert listed["tokens"] == shard.input_ids.size
            assert listed["sequences_by_domain"] == Counter(shard.domain.tolist())
    assert manifest["tokenizer"]["special_tokens"] == {"<|endoftext|>": 0}
    assert manifest["tokenizer"]["boundary"] == "bos"
    vocabulary = pq.read_table(tmp_path / "shards" / "vocabulary.parquet")
    assert vocabulary.schema.equals(VOCABULARY)
    assert vocabulary.num_rows == manifest["tokenizer"]["vocabulary"] == 400


def test_a_token_limit_takes_the_same_share_of_every_domain_spread_over_the_split(write, lines):
    everything, before = write()
    limit = before["splits"]["capture"]["tokens"] // 2
    written, manifest = write("limited", limits={"capture": limit})
    capture = manifest["splits"]["capture"]
    assert limit - LENGTH < capture["tokens"] <= limit
    for domain in ("code", "prose"):
        all_ids = np.hstack(rows_of(everything["capture"], domain)[:2])
        ids = np.hstack(rows_of(written["capture"], domain)[:2])
        assert len(ids) / len(all_ids) == pytest.approx(0.5, abs=1 / len(all_ids) + 0.01)
        # Every kept sequence is one of the split's, and they reach from its beginning to its end.
        places = [int(np.flatnonzero((all_ids == row).all(axis=1))[0]) for row in ids]
        assert places == sorted(set(places))
        assert max(np.diff(places)) <= 3
        cell = capture["domains"][domain]
        assert (
            cell["tokens"] + cell["tokens_dropped_by_limit"] == before["splits"]["capture"]["domains"][domain]["tokens"]
        )
    assert manifest["splits"]["heldout"] == before["splits"]["heldout"] | {
        "shards": manifest["splits"]["heldout"]["shards"]
    }


def files(folder):
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}


def test_equal_input_gives_equal_bytes(write, tmp_path):
    write("a")
    write("b")
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert len(files(tmp_path / "a")) == sum(SHARDS.values()) + 2


def test_shards_of_an_earlier_plan_are_removed(write, tmp_path):
    write(shards=SHARDS | {"capture": 6, "heldout": 4})
    (tmp_path / "shards" / "notes.txt").write_text("mine")
    write()
    names = {file.name for file in (tmp_path / "shards").iterdir()}
    assert names == {
        *(f"{split}-{shard:05d}.parquet" for split in SPLITS for shard in range(SHARDS[split])),
        "manifest.json",
        "vocabulary.parquet",
        "notes.txt",
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"positions": LENGTH - 1},
            r"sequences\.length: 16 is more than the 15 positions .*tiny/small takes; lower it",
        ),
        (
            {"micro_shards": MICRO_SHARDS | {"capture": 9999}},
            r"capture\.micro_shards\.capture: 9999, but corpus small yields only \d+ sequences of 16",
        ),
        (
            {"length": 4096, "positions": None},
            r"capture\.micro_shards\.capture: 6, but .* lower capture\.micro_shards or sequences\.length",
        ),
        (
            {"limits": {"heldout": 63}},
            r"corpora\.small\.max_tokens\.heldout: 63 tokens are 3 sequences of 16 for 4 micro-shards; raise it",
        ),
    ],
)
def test_settings_that_cannot_be_met_are_named_and_nothing_is_written(write, tmp_path, arguments, message):
    with pytest.raises(VarError, match=message) as error:
        write(**arguments)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "shards").exists() or list((tmp_path / "shards").iterdir()) == []


def test_a_sequence_as_long_as_the_model_takes_is_accepted(write):
    write(positions=LENGTH)
