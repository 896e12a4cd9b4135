"""A certificate is verified from its files alone, and whatever is changed in them is found."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from policy_traces import Everything, write_trace
from var_core.errors import VarError
from var_core.files import digest_of, file_digest, read_json, write_json
from var_core.policy.cache import CacheLimits
from var_core.policy.certificate import CERTIFICATE, EVIDENCE, FILES, LOSSES, Losses, Terms, certify, verify
from var_core.policy.settings import CacheSettings, PolicySettings
from var_core.policy.store import RECORD, Policy, load_policy
from var_core.policy.text import SCHEMA, TEXT, write_marks
from var_core.policy.ways import Way

SEQUENCES, LENGTH = 60, 20
TERMS = Terms(0.9, LENGTH, 2, (-0.5, 0.5))
CACHED = PolicySettings(cache=CacheSettings(CacheLimits(2, 16, 100), 0.2))


def make(subject, folder, wrong=False, terms=TERMS):
    """A certified policy for a model of random weights, and the trace that it was certified on, in a folder."""
    random = torch.Generator().manual_seed(0)
    fit, ids = (torch.randint(12, (SEQUENCES, LENGTH), generator=random) for _ in range(2))
    batch = subject.decisions(fit)
    if wrong:
        batch = replace(batch, experts=(batch.experts + 3) % subject.layout.experts)
    tables = subject.table(fit, batch)
    usable = tables.present & (torch.arange(tables.present.shape[1]) % 2 == 0)
    tables, everything = replace(tables, usable=usable), Everything()
    with subject.policy(replace(tables, usable=torch.zeros_like(usable)), observers=[everything]):
        subject.logits(ids)
    document = np.repeat(np.arange(SEQUENCES)[:, None], LENGTH, axis=1)
    write_marks(folder / "policy" / TEXT, marks(range(1000, 1010), "capture"))
    Policy(tables, CACHED, subject.layout, {"predicate": "static"}, {"model": "m"}).save(folder / "policy")
    record = file_digest(folder / "policy" / RECORD)
    (trace,) = write_trace(
        folder / "evaluation" / "t.parquet", ids, document, everything.records, subject.layout.experts,
        {"policy_record": record},
    )  # fmt: skip
    differences = np.random.default_rng(0).normal(0.01, 0.02, SEQUENCES) * (LENGTH - 1)
    plain = np.full(SEQUENCES, 4.0 * (LENGTH - 1))
    sequence = np.arange(SEQUENCES)
    losses = Losses(sequence, sequence // 2, np.full(SEQUENCES, LENGTH - 1), plain, plain + differences)
    return certify(folder / "policy", trace, losses, marks(range(SEQUENCES), "heldout"), terms), tables


def marks(documents, use):
    """Of documents that are a group with their neighbour."""
    rows = {
        "use": [use] * len(documents),
        "corpus": ["c"] * len(documents),
        "document": list(documents),
        "group": [f"group {number // 2}" for number in documents],
        "digest": [f"{number:x}" for number in documents],
    }
    return pa.table(rows, schema=SCHEMA)


@pytest.fixture(scope="module")
def certified(mixtral, tmp_path_factory):
    folder = tmp_path_factory.mktemp("certified")
    make(mixtral, folder)
    return folder


@pytest.fixture
def copy(certified, tmp_path):
    shutil.copytree(certified, tmp_path, dirs_exist_ok=True)
    return tmp_path / "policy"


def promised(certificate):
    return {(each["name"], each.get("layer")): each for each in certificate["promises"]}


def test_it_promises_agreement_learned_share_and_loss(certified):
    found = promised(read_json(certified / "policy" / CERTIFICATE))
    assert set(found) == {("set_agreement", layer) for layer in range(3)} | {
        ("learned_share", None), ("clipped_loss_increase", None),
    }  # fmt: skip
    for each in found.values():
        above = each["direction"] == "at most"
        assert each["bound"] > each["estimate"] if above else each["bound"] < each["estimate"]
        assert each["clusters"] == SEQUENCES // 2
    assert found["learned_share", None]["bound"] < 1
    assert 0.01 < found["clipped_loss_increase", None]["bound"] < 0.2


def test_a_wrong_table_gets_no_promise_worth_having(mixtral, tmp_path, certified):
    """Negative control."""
    wrong = promised(make(mixtral, tmp_path, wrong=True)[0])
    right = promised(read_json(certified / "policy" / CERTIFICATE))
    for layer in range(3):
        assert wrong["set_agreement", layer]["bound"] < 0.5 * right["set_agreement", layer]["bound"]


def test_more_confidence_promises_less(mixtral, tmp_path, certified):
    sure = promised(make(mixtral, tmp_path, terms=replace(TERMS, confidence=0.999))[0])
    for key, each in promised(read_json(certified / "policy" / CERTIFICATE)).items():
        assert (sure[key]["bound"] > each["bound"]) == (each["direction"] == "at most")


def run(folder: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "var_core.policy", "verify", str(folder)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_the_command_verifies_it(certified):
    done = run(certified / "policy")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "verified" and "FAIL" not in done.stdout


def test_the_command_names_the_line_that_fails(copy):
    (copy / LOSSES).write_bytes(b"no losses")
    done = run(copy)
    assert done.returncode == 1
    assert f"FAIL  {LOSSES}: {copy / LOSSES}: is not the file that was certified" in done.stdout.splitlines()
    assert done.stdout.splitlines()[-1] == "not verified: 1 lines fail"


EVERY_FILE = (CERTIFICATE, *FILES)


@pytest.mark.parametrize("name", EVERY_FILE)
def test_flipped_bits_are_found(copy, name):
    path = copy / name
    whole = path.read_bytes()
    for place in np.random.default_rng(1).integers(len(whole), size=25).tolist():
        broken = bytearray(whole)
        broken[place] ^= 1 << (place % 7)
        path.write_bytes(broken)
        assert not all(check.passed for check in verify(copy)), place


@pytest.mark.parametrize("name", EVERY_FILE)
def test_missing_files_are_found(copy, name):
    (copy / name).unlink()
    assert not all(check.passed for check in verify(copy))


def signed(copy, change):
    """Change a certificate and give it a digest that fits, as somebody would who wants to be believed."""
    certificate = read_json(copy / CERTIFICATE)
    certificate.pop("digest")
    change(certificate)
    write_json(copy / CERTIFICATE, certificate | {"digest": digest_of(certificate)})


@pytest.mark.parametrize("which", range(5))
@pytest.mark.parametrize("key", ["bound", "estimate"])
def test_a_number_that_was_improved_and_signed_again_is_found(copy, which, key):
    def improve(certificate):
        certificate["promises"][which][key] += 1e-6

    signed(copy, improve)
    failed = [check.line for check in verify(copy) if not check.passed]
    assert (
        len(failed) == 1
        and json.loads(json.dumps(read_json(copy / CERTIFICATE)["promises"][which]))["name"] in failed[0]
    )


def test_evidence_that_was_improved_and_signed_again_is_found(copy):
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    table = pq.read_table(copy / EVIDENCE)
    place = table.column_names.index("set_agreement")
    fast = pc.equal(table["way"], int(Way.FAST))
    better = pc.if_else(fast, table["decisions"].cast("double"), table["set_agreement"])
    pq.write_table(table.set_column(place, "set_agreement", better), copy / EVIDENCE)

    def sign(certificate):
        certificate["files"][EVIDENCE] = file_digest(copy / EVIDENCE)

    signed(copy, sign)
    failed = [check for check in verify(copy) if not check.passed]
    assert [check.line for check in failed] == ["replay"] and "set_agreement" in failed[0].said


def again(folder, losses=None, tried_on=None):
    """Certify once more, with something else."""
    policy = folder / "policy"
    tried_on = marks(range(SEQUENCES), "heldout") if tried_on is None else tried_on
    return certify(policy, folder / "evaluation" / "t.parquet", losses or Losses.load(policy), tried_on, TERMS)


@pytest.mark.parametrize(
    ("tried_on", "said"),
    [
        (marks([*range(SEQUENCES), 1003], "heldout"), "was made from text that it is to be tried on"),
        (marks(range(SEQUENCES - 1), "heldout"), "document 59 is not among the marked text"),
    ],
)
def test_text_that_the_policy_was_made_from_is_refused(certified, tmp_path, tried_on, said):
    shutil.copytree(certified, tmp_path, dirs_exist_ok=True)
    with pytest.raises(VarError, match=said):
        again(tmp_path, tried_on=tried_on)


def test_a_group_in_two_clusters_is_refused(certified, tmp_path):
    shutil.copytree(certified, tmp_path, dirs_exist_ok=True)
    losses = Losses.load(tmp_path / "policy")
    with pytest.raises(VarError, match="group 0 has text in two clusters"):
        again(tmp_path, replace(losses, cluster=losses.sequence))


def test_another_policy_s_trace_is_refused(certified, tmp_path):
    shutil.copytree(certified, tmp_path, dirs_exist_ok=True)
    policy = load_policy(tmp_path / "policy")
    replace(policy, settings=PolicySettings()).save(tmp_path / "policy")
    with pytest.raises(VarError, match="another policy ran"):
        again(tmp_path)


def test_fewer_clusters_promise_less(certified, tmp_path):
    """Sequences that are not independent say less than as many that are."""
    shutil.copytree(certified, tmp_path, dirs_exist_ok=True)
    by_two = promised(read_json(certified / "policy" / CERTIFICATE))
    losses = Losses.load(tmp_path / "policy")
    joined = replace(losses, cluster=losses.cluster // 2)
    by_four = promised(
        certify(
            tmp_path / "policy", tmp_path / "evaluation" / "t.parquet", joined, marks(range(SEQUENCES), "heldout"),
            replace(TERMS, sequences_per_cluster=4),
        )
    )  # fmt: skip
    for key, each in by_two.items():
        assert (by_four[key]["bound"] > each["bound"]) == (each["direction"] == "at most")
        assert by_four[key]["estimate"] == pytest.approx(each["estimate"])


def test_losses_of_other_sequences_are_refused(mixtral, tmp_path, certified):
    shutil.copytree(certified, tmp_path, dirs_exist_ok=True)
    losses = Losses.load(tmp_path / "policy")
    with pytest.raises(VarError, match="not of the sequences of the trace"):
        again(tmp_path, losses=replace(losses, sequence=np.where(losses.sequence == 5, 999, losses.sequence)))


@pytest.mark.parametrize(
    "change",
    [
        lambda certificate: certificate.update(sequences=100_000),
        lambda certificate: certificate.update(made_from={"model": "another"}),
        lambda certificate: certificate["terms"].update(sequence_length=5),
        lambda certificate: certificate["terms"].update(confidence=2),
        lambda certificate: certificate["promises"].pop(),
    ],
)
def test_whatever_else_was_changed_and_signed_again_is_found(copy, change):
    signed(copy, change)
    assert not all(check.passed for check in verify(copy))


def test_losses_that_lack_the_worst_sequences_are_found(copy):
    losses = Losses.load(copy)
    best = np.argsort(losses.policy - losses.plain)[: SEQUENCES - 20]
    Losses(*(getattr(losses, name)[best] for name in vars(losses))).save(copy)
    signed(copy, lambda c: c["files"].update({LOSSES: file_digest(copy / LOSSES)}))
    assert [check.line for check in verify(copy) if not check.passed] == ["replay"]


def test_a_shared_cache_is_not_certified(mixtral, certified, tmp_path):
    shutil.copytree(certified, tmp_path, dirs_exist_ok=True)
    policy = load_policy(tmp_path / "policy")
    shared = replace(CACHED, cache=replace(CACHED.cache, shared=True))
    replace(policy, settings=shared).save(tmp_path / "policy")
    with pytest.raises(VarError, match="share a cache"):
        again(tmp_path)


def test_terms_are_checked():
    with pytest.raises(VarError, match=r"certificate\.confidence is 1"):
        Terms(confidence=1.0)
