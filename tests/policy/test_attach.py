"""A saved policy is attached to the model that it was made for, with its audit, and to no other."""

import json
import logging
import shutil
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM

from moe_models import VOCABULARY, build_model
from policy_subject import Subject
from var_core.corpus.tokenise import DocumentTokenizer
from var_core.errors import VarError
from var_core.files import file_digest
from var_core.models.folder import folder_digest
from var_core.policy.attach import AuditSettings, attach_policy, certified_audit, certified_monitor
from var_core.policy.audit import AuditMonitor
from var_core.policy.certificate import CERTIFICATE, FORMAT
from var_core.policy.settings import PolicySettings
from var_core.policy.store import RECORD, TABLES, Policy, write_signed
from var_core.policy.ways import Way


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory, tiny_tokenizer):
    folder = tmp_path_factory.mktemp("model")
    build_model("mixtral").save_pretrained(folder)
    shutil.copytree(tiny_tokenizer, folder, dirs_exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def tiny_tokenizer(tmp_path_factory):
    """Files of a tokenizer with as many tokens as the models have."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tokenizer")
    words = {f"w{number}": number for number in range(VOCABULARY)}
    PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(words, "w0"))).save_pretrained(folder)
    return folder


def write_certificate(folder, policy, bounds):
    """As much of a certificate of a saved policy as an audit looks at: a promise for each of some layers."""
    promises = [{"name": "set_agreement", "layer": layer, "bound": bound} for layer, bound in bounds.items()]
    files = {name: file_digest(folder / name) for name in (RECORD, TABLES)}
    content = {"format": FORMAT, "made_from": policy.made_from, "promises": promises, "files": files}
    write_signed(folder / CERTIFICATE, content)


@pytest.fixture
def saved(tmp_path, model_folder):
    """A policy that takes every token id that it has an entry of, with a promise for each layer."""
    subject = Subject.of("mixtral")
    ids = torch.randint(12, (6, 20), generator=torch.Generator().manual_seed(0))
    tables = subject.table(ids, subject.decisions(ids))
    made_from = {"model": folder_digest(model_folder), "tokenizer": DocumentTokenizer(model_folder).digest}
    policy = Policy(replace(tables, usable=tables.present), PolicySettings(), subject.layout, {}, made_from)
    policy.save(tmp_path / "policy")
    write_certificate(tmp_path / "policy", policy, dict.fromkeys(range(len(subject.layout)), 1.0))
    return tmp_path / "policy", policy, ids


@pytest.fixture(scope="module")
def model(model_folder):
    return AutoModelForCausalLM.from_pretrained(model_folder).eval()


@pytest.mark.parametrize("weights", ["stored", "live"])
def test_it_decides_in_the_model_that_it_was_made_for(model, saved, weights):
    folder, policy, ids = saved
    replace(policy, settings=PolicySettings(weights)).save(folder)
    with attach_policy(model, folder) as attached, torch.inference_mode():
        model(ids)
    by_way = attached.counts.by_way.sum(dim=0)
    assert by_way[int(Way.FAST)] == by_way.sum() > 0


def test_its_audit_watches_what_is_promised_and_switches_layers_off(model, saved):
    folder, _, ids = saved
    text = ids.repeat(40, 1)
    with attach_policy(model, folder, audit=AuditSettings(share=1.0)) as attached, torch.inference_mode():
        for rows in text.split(8):
            model(rows)
    # Mode of a token's decisions, promised to agree always: of random weights, some layer does not.
    assert not attached.active.all()


def test_another_model_or_tokenizer_is_refused(model, saved, model_folder, tmp_path):
    folder, policy, _ = saved
    other = shutil.copytree(model_folder, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"rope_theta": 7.0}))
    with pytest.raises(VarError, match="made for another model"):
        attach_policy(model, folder, other)
    replace(policy, made_from=policy.made_from | {"tokenizer": "t"}).save(folder)
    with pytest.raises(VarError, match="made for another tokenizer"):
        attach_policy(model, folder)
    with pytest.raises(VarError, match="is no model's folder"):
        attach_policy(build_model("mixtral"), folder)


def test_an_audit_needs_the_policy_s_own_certificate(saved):
    folder, policy, _ = saved
    with pytest.raises(VarError, match="is not of the policy beside it"):
        certified_audit(folder, replace(policy, made_from={"model": "another"}), AuditSettings())
    assert certified_audit(folder, policy, AuditSettings()) is not None
    # Made again from the same text, with other settings or tables.
    for other in (
        replace(policy, settings=PolicySettings("live")),
        replace(policy, tables=replace(policy.tables, weights=policy.tables.weights * 0.5)),
    ):
        other.save(folder)
        with pytest.raises(VarError, match="is not of the policy beside it; certify it again"):
            certified_audit(folder, other, AuditSettings())
    (folder / CERTIFICATE).unlink()
    with pytest.raises(VarError, match="no such file"):
        certified_audit(folder, policy, AuditSettings())


def test_a_policy_of_which_no_agreement_is_promised_runs_without_audit(model, saved, caplog):
    folder, policy, ids = saved
    for bounds in ({}, {0: 0.0}):
        write_certificate(folder, policy, bounds)
        caplog.clear()
        with caplog.at_level(logging.WARNING), attach_policy(model, folder, audit=AuditSettings(1.0)) as attached:
            model(ids)
        assert "nothing to watch; no audit" in caplog.text
        assert attached.counts.evaluated == [0] * len(policy.layout)


def test_an_audit_goes_on_in_another_process_where_the_last_left_off(model, saved):
    folder, policy, ids = saved
    write_certificate(folder, policy, {0: 0.999, 1: 0.02})
    settings = AuditSettings(share=0.5)

    def run(texts, monitor, first):
        attached = attach_policy(model, folder, audit=settings, monitor=monitor, first_sequence=first)
        with attached, torch.inference_mode():
            for rows in texts:
                model(rows)
        return attached

    texts = [ids.roll(by, dims=1) for by in range(20)]
    whole = certified_monitor(folder, policy, settings)
    run(texts, whole, 0)
    first = certified_monitor(folder, policy, settings)
    earlier = run(texts[:12], first, 0)
    second = AuditMonitor.from_dict(json.loads(json.dumps(first.to_dict())))
    later = run(texts[12:], second, earlier.next_sequence)
    assert second.to_dict() == whole.to_dict() and later.next_sequence == 120
    assert first.alarmed.tolist() == [True, False, False]
    # What the first had switched off stays so, from the first pass on.
    assert later.active.tolist() == [False, True, True]
    assert later.counts.by_way[0].tolist() == [8 * ids.numel(), 0, 0]


def test_a_monitor_of_other_promises_is_refused(model, saved):
    folder, policy, _ = saved
    with pytest.raises(VarError, match="other promises"):
        attach_policy(model, folder, audit=AuditSettings(), monitor=AuditMonitor([0.5] * 3, 0.05))
    with pytest.raises(VarError, match="another alpha"):
        watching = certified_monitor(folder, policy, AuditSettings())
        attach_policy(model, folder, audit=AuditSettings(alpha=0.01), monitor=watching)
    with pytest.raises(VarError, match="give audit=AuditSettings"):
        attach_policy(model, folder, monitor=certified_monitor(folder, policy, AuditSettings()))


def test_single_decisions_or_groups_may_be_what_is_counted(saved):
    folder, policy, _ = saved
    with pytest.raises(VarError, match="groups are of sequences"):
        certified_audit(folder, policy, AuditSettings(unit="decision", cluster=lambda number: number))
    assert certified_audit(folder, policy, AuditSettings(unit="decision")) is not None
