"""A saved policy is attached to the model that it was made for, with its audit, and to no other."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM

from moe_models import VOCABULARY, build_model
from policy_subject import Subject
from var_core.corpus.tokenise import DocumentTokenizer
from var_core.errors import VarError
from var_core.models.folder import folder_digest
from var_core.policy.attach import AuditSettings, attach_policy, certified_audit
from var_core.policy.certificate import CERTIFICATE, FORMAT
from var_core.policy.settings import PolicySettings
from var_core.policy.store import Policy, write_signed
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


@pytest.fixture
def saved(tmp_path, model_folder):
    """A policy that takes every token id that it has an entry of, with a promise for each layer."""
    subject = Subject.of("mixtral")
    ids = torch.randint(12, (6, 20), generator=torch.Generator().manual_seed(0))
    tables = subject.table(ids, subject.decisions(ids))
    made_from = {"model": folder_digest(model_folder), "tokenizer": DocumentTokenizer(model_folder).digest}
    policy = Policy(replace(tables, usable=tables.present), PolicySettings(), subject.layout, {}, made_from)
    policy.save(tmp_path / "policy")
    promises = [{"name": "set_agreement", "layer": layer, "bound": 1.0} for layer in range(len(subject.layout))]
    write_signed(tmp_path / "policy" / CERTIFICATE, {"format": FORMAT, "made_from": made_from, "promises": promises})
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
    (folder / CERTIFICATE).unlink()
    with pytest.raises(VarError, match="no such file"):
        certified_audit(folder, policy, AuditSettings())
