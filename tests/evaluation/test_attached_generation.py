"""Completions are generated under an attached policy, as HumanEval does with and without one."""

from dataclasses import replace

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from moe_models import VOCABULARY, build_model
from policy_subject import Subject
from var_core.corpus.tokenise import DocumentTokenizer
from var_core.evaluation.generation import GenerationSettings, generate_completions
from var_core.models.folder import folder_digest
from var_core.policy.attach import attach_policy
from var_core.policy.cache import CacheLimits
from var_core.policy.settings import CacheSettings, PolicySettings
from var_core.policy.store import Policy
from var_core.policy.ways import Way

PROMPTS = ["w1 w2 w3 w1 w2 w3", "w4 w5", "w1 w2 w9 w8 w7"]
SETTINGS = GenerationSettings(max_new_tokens=6, batch_size=3)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with model and tokenizer, and a function that saves a policy for them."""
    folder = tmp_path_factory.mktemp("generation")
    build_model("mixtral").save_pretrained(folder / "model")
    tokenizer = Tokenizer(models.WordLevel({f"w{number}": number for number in range(VOCABULARY)}, "w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="w0").save_pretrained(folder / "model")
    subject = Subject.of("mixtral")
    ids = torch.randint(12, (6, 30), generator=torch.Generator().manual_seed(0))
    tables = subject.table(ids, subject.decisions(ids))
    made_from = {
        "model": folder_digest(folder / "model"),
        "tokenizer": DocumentTokenizer(folder / "model").digest,
    }

    def save(usable, settings):
        policy = Policy(replace(tables, usable=tables.present & usable), settings, subject.layout, {}, made_from)
        policy.save(folder / "policy")
        return folder / "policy"

    return folder / "model", save


@pytest.fixture(scope="module")
def loaded(saved):
    return AutoModelForCausalLM.from_pretrained(saved[0]).eval(), AutoTokenizer.from_pretrained(saved[0])


def test_under_an_empty_policy_a_model_writes_what_it_writes_without(saved, loaded):
    plain = generate_completions(*loaded, PROMPTS, SETTINGS)
    attached = attach_policy(loaded[0], saved[1](False, PolicySettings()))
    assert generate_completions(*loaded, PROMPTS, SETTINGS, attached) == plain
    assert attached.counts.by_way[:, int(Way.FAST)].sum() == 0
    assert generate_completions(*loaded, PROMPTS, SETTINGS) == plain, "the model is as it was"


def test_tables_and_cache_decide_while_a_model_writes(saved, loaded):
    cache = CacheSettings(CacheLimits(2, 16, 100), 0.0)
    attached = attach_policy(loaded[0], saved[1](True, PolicySettings(cache=cache)))
    completions = generate_completions(*loaded, PROMPTS, SETTINGS, attached)
    assert len(completions) == len(PROMPTS)
    assert (attached.counts.by_way.sum(dim=0)[[int(Way.FAST)]] > 0).all()
    # Of three prompts in a batch, padding is no token; the last token that is written is not read again.
    decided = int(attached.counts.by_way[0].sum())
    assert decided == sum(len(prompt.split()) for prompt in PROMPTS) + 3 * (SETTINGS.max_new_tokens - 1)
