"""A policy inside real models: exact where it must be, and never another row's business."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import MiniMaxM2Config

from moe_models import VOCABULARY
from policy_subject import Subject
from var_core.errors import VarError
from var_core.policy.audit import AuditMonitor
from var_core.policy.cache import CacheLimits
from var_core.policy.runtime import Observer
from var_core.policy.settings import BudgetSettings, CacheSettings, PolicySettings
from var_core.policy.shadow import ShadowAudit
from var_core.policy.ways import Way

CACHED = PolicySettings(cache=CacheSettings(CacheLimits(2, 16, 100), confidence_threshold=0.3))
LEARNED, FAST, REUSED = (int(way) for way in (Way.LEARNED, Way.FAST, Way.CACHED))


def usable(tables):
    return replace(tables, usable=tables.present)


def some_usable(tables, every=2):
    chosen = torch.zeros_like(tables.present)
    chosen[:, ::every] = True
    return replace(tables, usable=tables.present & chosen)


def table(subject, ids):
    return subject.table(ids, subject.decisions(ids))


def by_way(policy):
    return policy.counts.by_way.sum(dim=0).tolist()


def test_with_nothing_to_decide_not_a_bit_differs(subject, ids):
    plain = subject.logits(ids)
    with subject.policy(table(subject, ids)) as policy:
        assert torch.equal(subject.logits(ids), plain)
    assert by_way(policy) == [ids.numel() * len(subject.sites), 0, 0]
    # And nothing is left behind.
    assert torch.equal(subject.logits(ids), plain)
    assert all("forward" not in vars(site.router) for site in subject.sites)


@pytest.mark.parametrize("weights", ["stored", "live"])
def test_an_oracle_s_table_gives_the_plain_model(subject, weights):
    # Every token id once, so that the table holds this text's own decisions.
    ids = torch.randperm(VOCABULARY, generator=torch.Generator().manual_seed(0))[:80].view(2, 40)
    oracle = usable(table(subject, ids))
    with subject.policy(oracle, PolicySettings(weights)) as policy:
        logits = subject.logits(ids)
    assert by_way(policy) == [0, ids.numel() * len(subject.sites), 0]
    torch.testing.assert_close(logits, subject.logits(ids), rtol=1e-4, atol=1e-5)


def test_a_wrong_table_changes_the_model(subject, ids):
    """Negative control: what is compared above can differ."""
    batch = subject.decisions(ids)
    wrong = replace(batch, experts=(batch.experts + 1) % subject.layout.experts)
    with subject.policy(usable(subject.table(ids, wrong))):
        logits = subject.logits(ids)
    assert (logits - subject.logits(ids)).abs().max() > 1e-2


def test_the_router_runs_only_for_tokens_that_need_it(subject, ids):
    tables = some_usable(table(subject, ids))
    with subject.policy(tables, PolicySettings("stored")) as policy:
        subject.logits(ids)
    learned = policy.counts.by_way[:, LEARNED].tolist()
    assert policy.counts.evaluated == learned
    assert all(0 < number < ids.numel() for number in learned)
    with subject.policy(tables, PolicySettings("live")) as policy:
        subject.logits(ids)
    assert policy.counts.evaluated == [ids.numel()] * len(subject.sites)


class Collector(Observer):
    def __init__(self, records):
        self.decided = records.append


def collected(subject, tables, settings, run, **more):
    records = []
    with subject.policy(tables, settings, observers=[Collector(records)], **more):
        run()
    return records


def by_layer(records, layer):
    """Ways and sets of experts of all tokens of a layer, row by row and in order."""
    ways, experts = [], []
    for record in records:
        if record.layer == layer:
            rows = len(record.tokens.ids)
            ways.append(record.way.view(rows, -1))
            experts.append(record.experts.sort(dim=1).values.view(rows, ways[-1].shape[1], -1))
    return torch.cat(ways, dim=1), torch.cat(experts, dim=1)


@pytest.mark.parametrize("settings", [CACHED, replace(CACHED, budget=BudgetSettings(0.4, 10))], ids=["cache", "budget"])
def test_prefill_decides_as_decoding_does(subject, ids, settings):
    tables = some_usable(table(subject, ids), every=3)

    def decode():
        past = None
        with torch.inference_mode():
            for place in range(ids.shape[1]):
                past = subject.model(ids[:, place : place + 1], past_key_values=past, use_cache=True).past_key_values

    whole = collected(subject, tables, settings, lambda: subject.logits(ids))
    single = collected(subject, tables, settings, decode)
    for layer in range(len(subject.sites)):
        for one, other in zip(by_layer(whole, layer), by_layer(single, layer), strict=True):
            assert torch.equal(one, other)
    ways = torch.cat([record.way for record in whole])
    assert all((ways == way).sum() > 10 for way in (LEARNED, FAST, REUSED))


def test_a_record_has_the_confidence_of_a_router_that_was_asked(subject, ids):
    records = collected(subject, some_usable(table(subject, ids)), PolicySettings(), lambda: subject.logits(ids))
    for record in records:
        assert (record.confidence.isnan() == (record.way == FAST)).all()
        logits = record.logits[record.asked].float()
        torch.testing.assert_close(record.confidence[record.asked], logits.softmax(dim=1).amax(dim=1))


def contexts(ids, counts, starts, window):
    """The same token by token: the last ids of the document, -1 before it and for padding."""
    for row in range(len(ids)):
        met = []
        for token, counted, start in zip(ids[row], counts[row], starts[row], strict=True):
            met = ([] if start else met) + ([token] if counted else [])
            yield ([-1] * window + met)[-window:] if counted else [-1] * window


@pytest.mark.parametrize("window", [1, 2, 5])
def test_a_record_has_the_context_that_the_cache_goes_by(mixtral, ids, window):
    settings = replace(CACHED, cache=replace(CACHED.cache, limits=CacheLimits(window, 16, 100)))
    # Padding in the middle of a row and at both ends, and two documents in a row.
    mask = torch.ones_like(ids)
    mask[0, :5], mask[1, 7:9], mask[1, -3:] = 0, 0, 0
    positions = torch.arange(ids.shape[1]).repeat(2, 1)
    positions[0, 20:] -= 20

    def in_parts():
        past, at = None, 0
        with torch.inference_mode():
            for part in ids.split([9, 1, 13, ids.shape[1] - 23], dim=1):
                now = slice(at, at := at + part.shape[1])
                given = {"attention_mask": mask[:, :at], "position_ids": positions[:, now]}
                past = mixtral.model(part, past_key_values=past, use_cache=True, **given).past_key_values

    records = [record for record in collected(mixtral, table(mixtral, ids), settings, in_parts) if record.layer == 1]
    found = torch.cat([record.context.view(2, -1, window) for record in records], dim=1).flatten(0, 1)
    parts = [torch.cat([getattr(record.tokens, name) for record in records], dim=1) for name in ("counts", "starts")]
    assert parts[1].sum() == 3
    assert found.tolist() == list(contexts(ids.tolist(), *(part.tolist() for part in parts), window))
    plain = collected(mixtral, table(mixtral, ids), PolicySettings(), lambda: mixtral.logits(ids))
    assert all(record.context is None for record in plain)


def test_what_is_cached_is_what_was_learned_in_that_context(subject, ids):
    records = collected(subject, table(subject, ids), CACHED, lambda: subject.logits(ids))
    for record in records:
        experts = record.experts.view(*ids.shape, -1)
        for s, t in ((record.way == REUSED).view(ids.shape)).nonzero().tolist():
            same = [u for u in range(1, t) if ids[s, u - 1 : u + 1].tolist() == ids[s, t - 1 : t + 1].tolist()]
            assert experts[s, t].tolist() in [experts[s, u].tolist() for u in same]


def test_rows_of_a_batch_keep_their_own_contexts(subject, ids):
    """One context served all rows of a batch once, so that row 2 got row 1's experts."""
    tables = some_usable(table(subject, ids), every=3)
    both = collected(subject, tables, CACHED, lambda: subject.logits(ids))
    for row in range(2):
        alone = collected(subject, tables, CACHED, lambda row=row: subject.logits(ids[row : row + 1]))
        for layer in range(len(subject.sites)):
            for one, other in zip(by_layer(both, layer), by_layer(alone, layer), strict=True):
                assert torch.equal(one[row : row + 1], other)


def test_padding_is_as_if_it_were_not_there(subject, ids):
    tables, padding = some_usable(table(subject, ids), every=3), torch.full((2, 5), 7)
    plain = collected(subject, tables, CACHED, lambda: subject.logits(ids))
    padded_ids = torch.cat((padding, ids), dim=1)
    mask = torch.cat((torch.zeros_like(padding), torch.ones_like(ids)), dim=1)
    positions = (mask.cumsum(dim=1) - 1).masked_fill(mask == 0, 1)
    padded = collected(
        subject, tables, CACHED, lambda: subject.logits(padded_ids, attention_mask=mask, position_ids=positions)
    )
    for layer in range(len(subject.sites)):
        ways, _ = by_layer(padded, layer)
        assert (ways[:, :5] == -1).all()
        assert torch.equal(ways[:, 5:], by_layer(plain, layer)[0])


def test_generation_goes_through_the_policy(mixtral, ids):
    tables = some_usable(table(mixtral, ids), every=3)
    with mixtral.policy(tables, CACHED) as policy:
        made = mixtral.model.generate(ids, max_new_tokens=12, do_sample=False, pad_token_id=96)
    # The last token is not run.
    assert sum(by_way(policy)) == (made.shape[1] - 1) * 2 * len(mixtral.sites)
    with mixtral.policy(table(mixtral, ids)):
        same = mixtral.model.generate(ids, max_new_tokens=12, do_sample=False, pad_token_id=96)
    assert torch.equal(same, mixtral.model.generate(ids, max_new_tokens=12, do_sample=False, pad_token_id=96))


@pytest.fixture
def endings(mixtral):
    """The model's configuration of generation, which a test may change."""
    config = mixtral.model.generation_config
    kept = config.eos_token_id, config.pad_token_id
    yield config
    config.eos_token_id, config.pad_token_id = kept


@pytest.mark.parametrize("padding", ["another token", "the end token"])
def test_what_follows_the_end_of_a_generated_row_does_not_count(mixtral, ids, endings, padding):
    """A finished row went on spending budget, and being audited, as long as any other row of its batch was written."""
    endings.eos_token_id = None
    prompts, new = ids[:, :8], 12
    made = mixtral.model.generate(prompts, max_new_tokens=new, do_sample=False, pad_token_id=96)[:, 8:].tolist()
    # The second row ends with a token of the third step or later that it had not written, nor the first row ever.
    steps = [at for at in range(2, new - 3) if made[1][at] not in made[0] + made[1][:at]]
    at = steps[0]
    endings.eos_token_id = made[1][at]
    endings.pad_token_id = endings.eos_token_id if padding == "the end token" else 96
    assert 96 not in made[0] + made[1]

    def generate():
        return mixtral.model.generate(prompts, max_new_tokens=new, do_sample=False)

    audit = ShadowAudit(AuditMonitor([0.0] * 3, 0.05), share=1.0, unit="decision")
    settings = replace(CACHED, budget=BudgetSettings(1.0, 10))
    records = []
    with mixtral.policy(table(mixtral, ids), settings, observers=[Collector(records), audit]) as policy:
        written = generate()[:, 8:].tolist()
    assert written == [made[0], made[1][: at + 1] + [endings.pad_token_id] * (new - at - 1)]
    # Of the prompts everything; of what was written all that was read again: up to the end, that itself included.
    expected = [8 + new - 1, 8 + at + 1]
    assert policy.counts.by_way.sum(dim=1).tolist() == [sum(expected)] * 3
    ways = torch.cat([record.way.view(2, -1) for record in records if record.layer == 0], dim=1)
    assert (ways >= 0).sum(dim=1).tolist() == expected


def test_ends_in_prompts_and_in_text_that_is_read_on_count(mixtral, ids, endings):
    endings.eos_token_id, endings.pad_token_id = [3, 4], 95
    # No end but those: in the prompt and in a pass of two tokens behind an end, and among others a token at a time.
    text = ids.masked_fill((ids == 3) | (ids == 4), 5)
    text[:, 10:14], text[0, 20], text[1, 21], text[1, 30:33] = 3, 4, 3, torch.tensor([3, 4, 95])
    with mixtral.policy(table(mixtral, ids)) as policy, torch.inference_mode():
        past = mixtral.model(text[:, :12], use_cache=True).past_key_values
        for part in text[:, 12:].split([1, 2] + [1] * (text.shape[1] - 15), dim=1):
            past = mixtral.model(part, past_key_values=past, use_cache=True).past_key_values
    # What is like a finished row's does not: an end, and padding, behind an end.
    assert policy.counts.by_way.sum(dim=1).tolist() == [text.numel() - 2] * 3


def test_a_shared_cache_outlives_its_sequences(mixtral, ids):
    shared = replace(CACHED, cache=replace(CACHED.cache, shared=True, confidence_threshold=0.0))
    with mixtral.policy(table(mixtral, ids), shared) as policy:
        mixtral.logits(ids[:1])
        before = by_way(policy)[REUSED]
        mixtral.logits(ids[:1, -10:])
    assert by_way(policy)[REUSED] > before
    with mixtral.policy(table(mixtral, ids), CACHED) as policy:
        mixtral.logits(ids[:1])
        before = by_way(policy)[REUSED]
        mixtral.logits(torch.arange(20)[None])
    assert by_way(policy)[REUSED] == before


def test_a_layer_that_is_switched_off_is_the_routers(subject, ids):
    tables = usable(table(subject, ids))
    with subject.policy(tables, CACHED) as policy:
        policy.active[1] = False
        subject.logits(ids)
    assert policy.counts.by_way[1].tolist() == [ids.numel(), 0, 0]
    assert policy.counts.by_way[0, FAST] == ids.numel()


def test_beams_are_refused(mixtral, ids):
    with mixtral.policy(table(mixtral, ids)), torch.inference_mode():
        past = mixtral.model(ids, use_cache=True).past_key_values
        past.crop(-10)
        with pytest.raises(VarError, match="drafts that are taken back"):
            mixtral.model(ids[:, -10:], past_key_values=past)


def test_embeddings_are_refused(mixtral, ids):
    embeddings = mixtral.model.get_input_embeddings()(ids)
    with mixtral.policy(table(mixtral, ids)), pytest.raises(VarError, match="input_ids"):
        mixtral.model(inputs_embeds=embeddings)


def test_tables_of_another_model_are_refused(mixtral, ids):
    tables = table(mixtral, ids)
    with pytest.raises(VarError, match="made for another model"):
        mixtral.policy(replace(tables, experts=tables.experts[:2]))


def test_a_bias_by_expert_is_not_taken_for_rows_of_tokens():
    """With as many tokens as experts, its length does not tell it from a row a token."""
    subject = Subject.of_config(
        MiniMaxM2Config(
            vocab_size=VOCABULARY, hidden_size=32, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, head_dim=8, num_local_experts=8, num_experts_per_tok=2, max_position_embeddings=64,
        )
    )  # fmt: skip
    ids = torch.arange(8)[None]
    with torch.no_grad():
        for site in subject.sites:
            for name, buffer in subject.model.named_buffers():
                if "bias" in name:
                    buffer.copy_(torch.linspace(-0.2, 0.2, 8))
    tables = table(subject, ids)
    chosen = torch.zeros_like(tables.present)
    chosen[:, 1:8] = True
    with subject.policy(replace(tables, usable=tables.present & chosen)) as policy:
        logits = subject.logits(ids)
    assert policy.counts.evaluated == [1, 1]
    torch.testing.assert_close(logits, subject.logits(ids), rtol=1e-4, atol=1e-5)


def test_beams_of_generation_are_refused(mixtral, ids):
    with mixtral.policy(table(mixtral, ids), CACHED), pytest.raises(VarError, match="without beams"):
        mixtral.model.generate(ids, max_new_tokens=6, num_beams=3, do_sample=False, pad_token_id=96)


class Waits(TorchDispatchMode):
    """Counts operations for which the host has to wait for a device: single numbers, and what has as many as it has."""

    def __init__(self):
        super().__init__()
        self.number = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        names = ("aten::is_nonzero", "aten::item", "aten::_local_scalar_dense", "aten::nonzero", "aten::equal")
        self.number += function.name() in names
        return function(*arguments, **(keywords or {}))


@pytest.mark.parametrize("weights", ["stored", "live"])
@pytest.mark.parametrize("share", ["none", "some", "all", "cache"])
def test_layers_do_not_wait_for_their_device(mixtral, ids, share, weights, monkeypatch):
    """Every layer waited up to six times: for whether anybody asks, whether all do, and who."""
    for site in mixtral.sites:
        monkeypatch.setattr(site.experts, "forward", lambda hidden, *_: hidden)
    tables = table(mixtral, ids)
    tables = {"none": tables, "some": some_usable(tables), "all": usable(tables), "cache": some_usable(tables)}[share]
    settings = replace(CACHED if share == "cache" else PolicySettings(), weights=weights)
    audit = ShadowAudit(AuditMonitor([0.0] * 3, 0.05), share=0.5, unit="decision")
    for observers in ([], [audit]):
        numbers = []
        for policy in (nullcontext(), mixtral.policy(tables, settings, observers=observers)):
            with policy, torch.inference_mode(), Waits() as waits:
                past = None
                for place in range(8):
                    past = mixtral.model(
                        ids[:, place : place + 1], past_key_values=past, use_cache=True
                    ).past_key_values
            numbers.append(waits.number)
        # In a pass, all layers together: which tokens are asked about.
        assert numbers[1] - numbers[0] <= 8
    assert policy.counts.by_way.sum() == 8 * 2 * len(mixtral.sites)


def test_generating_without_a_cache_is_refused(mixtral, ids):
    """Every step would be taken for new sequences, its decisions counted and audited again."""
    for beams in (1, 2):
        with mixtral.policy(table(mixtral, ids)) as policy, pytest.raises(VarError, match="use_cache=True"):
            mixtral.model.generate(
                ids, max_new_tokens=6, num_beams=beams, do_sample=False, use_cache=False, pad_token_id=96
            )
    # The prompt, once a beam, and nothing else.
    assert sum(by_way(policy)) == 2 * ids.numel() * len(mixtral.sites)


def test_other_sequences_of_one_token_more_are_new_ones(mixtral, ids):
    with mixtral.policy(table(mixtral, ids)) as policy, torch.inference_mode():
        mixtral.model(ids[:, :-1], use_cache=False)
        mixtral.model(ids + 1, use_cache=False)
        # And a prompt that was decoded from may be continued in another call.
        mixtral.model.generate(ids[:, :4], max_new_tokens=3, do_sample=False, pad_token_id=96)
        mixtral.model.generate(ids[:, :5], max_new_tokens=3, do_sample=False, pad_token_id=96)
    assert policy.next_sequence == 8


def test_a_mask_that_hides_the_padding_is_refused(mixtral, ids):
    with mixtral.policy(table(mixtral, ids)), pytest.raises(VarError, match="which tokens are padding"):
        mixtral.logits(ids, attention_mask=torch.ones(2, 1, ids.shape[1], ids.shape[1]))


def test_a_layer_that_is_switched_off_is_the_routers_whatever_the_budget(mixtral, ids):
    tables = usable(table(mixtral, ids))
    with mixtral.policy(tables, PolicySettings(budget=BudgetSettings(0.1, 10))) as policy:
        policy.active[1] = False
        mixtral.logits(ids)
    assert policy.counts.by_way[1].tolist() == [ids.numel(), 0, 0]


def test_a_shared_cache_may_be_used_in_another_mode(mixtral, ids):
    shared = replace(CACHED, cache=replace(CACHED.cache, shared=True))
    with mixtral.policy(table(mixtral, ids), shared):
        mixtral.logits(ids[:1])
        with torch.no_grad():
            mixtral.model(ids[:1])
