"""A saved policy is the policy, or is refused."""

import json
from dataclasses import fields

import pytest
import torch

from var_core.errors import VarError
from var_core.policy.cache import CacheLimits
from var_core.policy.settings import BudgetSettings, CacheSettings, PolicySettings
from var_core.policy.store import RECORD, TABLES, Policy, load_policy
from var_core.policy.tables import PolicyTables
from var_core.routing.batch import LayerRouter, RouterLayout

FROM = {"model": "m" * 64, "tokenizer": "t" * 64, "statistics": "s" * 64}


def tables():
    rows = 7
    return PolicyTables(
        torch.tensor([3, 9]), torch.tensor([0]), torch.randint(5, (2, rows, 2)).to(torch.int16), torch.rand(2, rows, 2),
        torch.rand(2, rows) > 0.2, torch.rand(2, rows), torch.rand(2, rows) > 0.5,
    )  # fmt: skip


@pytest.fixture
def policy():
    settings = PolicySettings("live", CacheSettings(CacheLimits(3, 64, 512), 0.7, True), BudgetSettings(0.15, 128))
    layout = RouterLayout((LayerRouter(5, 2), LayerRouter(4, 1, "sigmoid")))
    return Policy(tables(), settings, layout, {"predicate": "agreement", "agreement_threshold": 0.8}, FROM)


@pytest.mark.parametrize("settings", [None, PolicySettings()])
def test_what_is_loaded_is_what_was_saved(tmp_path, policy, settings):
    policy = policy if settings is None else Policy(policy.tables, settings, policy.layout, policy.made, FROM)
    policy.save(tmp_path)
    loaded = load_policy(tmp_path, {"model": FROM["model"], "tokenizer": FROM["tokenizer"]})
    assert (loaded.settings, loaded.layout, loaded.made, loaded.made_from) == (
        policy.settings, policy.layout, policy.made, FROM,
    )  # fmt: skip
    for field in fields(PolicyTables):
        assert torch.equal(getattr(loaded.tables, field.name), getattr(policy.tables, field.name))


@pytest.mark.parametrize("name", ["model", "tokenizer"])
def test_another_model_or_tokenizer_is_refused(tmp_path, policy, name):
    policy.save(tmp_path)
    with pytest.raises(VarError, match=f"made for another {name} .digest {name[0] * 12}, here 0{{12}}"):
        load_policy(tmp_path, {**FROM, name: "0" * 64})


@pytest.mark.parametrize("name", [TABLES, RECORD])
def test_every_flipped_bit_is_found(tmp_path, policy, name):
    policy.save(tmp_path)
    whole = (tmp_path / name).read_bytes()
    random = torch.Generator().manual_seed(0)
    for place in torch.randint(len(whole), (40,), generator=random).tolist():
        broken = bytearray(whole)
        broken[place] ^= 1 << (place % 7)
        (tmp_path / name).write_bytes(broken)
        with pytest.raises(VarError) as caught:
            load_policy(tmp_path)
        assert "\n" not in str(caught.value)
    (tmp_path / name).write_bytes(whole)
    load_policy(tmp_path)


@pytest.mark.parametrize("name", [TABLES, RECORD])
def test_a_missing_file_is_named(tmp_path, policy, name):
    policy.save(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(VarError, match=f"{name}: no such file"):
        load_policy(tmp_path)


def test_a_threshold_changed_by_hand_is_found(tmp_path, policy):
    policy.save(tmp_path)
    record = json.loads((tmp_path / RECORD).read_text())
    record["made"]["agreement_threshold"] = 0.99
    (tmp_path / RECORD).write_text(json.dumps(record))
    with pytest.raises(VarError, match="was changed after it was written"):
        load_policy(tmp_path)
