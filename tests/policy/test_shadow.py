"""An audit of a running model: silent while the policy keeps what was certified, and an end to it when it does not."""

import logging
from dataclasses import replace

import pytest
import torch

from moe_models import VOCABULARY
from var_core.errors import VarError
from var_core.policy.audit import AuditMonitor
from var_core.policy.shadow import ShadowAudit
from var_core.policy.ways import Way

FAST, LEARNED = int(Way.FAST), int(Way.LEARNED)


def texts(number, seed=0):
    random = torch.Generator().manual_seed(seed)
    return [torch.randint(VOCABULARY, (4, 16), generator=random) for _ in range(number)]


@pytest.fixture(scope="module")
def tables(mixtral):
    """A table of one text's decisions, and the same with every expert moved on: certainly wrong."""
    ids = torch.randperm(VOCABULARY, generator=torch.Generator().manual_seed(3))[None]
    batch = mixtral.decisions(ids)
    good = mixtral.table(ids, batch)
    bad = mixtral.table(ids, replace(batch, experts=(batch.experts + 3) % mixtral.layout.experts))
    return {name: replace(made, usable=made.present) for name, made in (("good", good), ("bad", bad))}


def run(subject, tables, audit, text):
    with subject.policy(tables, observers=[audit]) as policy:
        for ids in text:
            subject.logits(ids)
    return policy


@pytest.mark.parametrize("unit", ["sequence", "decision"])
def test_a_table_that_went_wrong_is_switched_off(mixtral, tables, unit, caplog):
    caplog.set_level(logging.WARNING)
    audit = ShadowAudit(AuditMonitor([0.5, 0.5, 0.5], alpha=0.05), share=0.5, unit=unit)
    policy = run(mixtral, tables["bad"], audit, texts(30))
    assert not policy.active.any()
    assert (policy.counts.by_way[:, LEARNED] > 0).all() and (policy.counts.by_way[:, FAST] > 0).all()
    assert sorted(event.layer for event in audit.monitor.events) == [0, 1, 2]
    assert len(caplog.records) == 3 and "its router decides alone from now on" in caplog.text


def test_what_keeps_its_promise_goes_on(mixtral, tables):
    audit = ShadowAudit(AuditMonitor([0.02, 0.02, 0.02], alpha=0.05), share=0.5)
    policy = run(mixtral, tables["good"], audit, texts(30))
    assert policy.active.all() and not audit.monitor.events
    # Half of 120 sequences, whole.
    assert audit.monitor.observed.min() == audit.monitor.observed.max() and 40 < audit.monitor.observed[0] < 80


def test_groups_of_sequences_count_once(mixtral, tables):
    """Ten passes of 4 sequences, 5 of which are a group: a group goes on through passes."""
    alone = ShadowAudit(AuditMonitor([0.0] * 3, 0.05), share=1.0)
    run(mixtral, tables["good"], alone, texts(10))
    grouped = ShadowAudit(AuditMonitor([0.0] * 3, 0.05), share=1.0, cluster=lambda number: number // 5)
    run(mixtral, tables["good"], grouped, texts(10))
    assert alone.monitor.observed.tolist() == [40] * 3 and grouped.monitor.observed.tolist() == [8] * 3
    assert grouped.monitor.total.tolist() == pytest.approx((alone.monitor.total / 5).tolist())
    with pytest.raises(VarError, match="groups are of sequences"):
        ShadowAudit(AuditMonitor([0.0], 0.05), share=1.0, unit="decision", cluster=lambda number: number)


def test_the_share_is_audited_and_no_more(mixtral, tables):
    audit = ShadowAudit(AuditMonitor([0.0, 0.0, 0.0], alpha=0.05), share=0.1, unit="decision")
    policy = run(mixtral, tables["good"], audit, texts(30))
    decisions = 30 * 4 * 16
    assert audit.monitor.observed.tolist() == pytest.approx([0.1 * decisions] * 3, rel=0.25)
    # The router ran for those, and for nothing else.
    assert policy.counts.evaluated == audit.monitor.observed.tolist()


def test_an_audit_changes_nothing_of_what_the_model_computes(mixtral, tables):
    ids = texts(1)[0]
    with mixtral.policy(tables["good"]):
        plain = mixtral.logits(ids)
    with mixtral.policy(tables["good"], observers=[ShadowAudit(AuditMonitor([0.0] * 3, 0.05), 0.5)]):
        assert torch.equal(mixtral.logits(ids), plain)


def test_the_same_decisions_are_audited_whatever_the_passes(mixtral, tables):
    ids = torch.cat(texts(2), dim=1)
    totals = []
    for lengths in ([32], [20, 12], [1] * 32):
        audit = ShadowAudit(AuditMonitor([0.0] * 3, 0.05), share=0.3, unit="decision")
        with mixtral.policy(tables["good"], observers=[audit]), torch.inference_mode():
            past = None
            for part in ids.split(lengths, dim=1):
                past = mixtral.model(part, past_key_values=past, use_cache=True).past_key_values
        totals.append((audit.monitor.observed.tolist(), audit.monitor.total.tolist()))
    assert totals[0] == totals[1] == totals[2]


def sampled(subject, tables, text, **more):
    """Numbers of the sequences that an audit looked at, and the number of the next."""
    numbers = set()

    class Noted(ShadowAudit):
        def asks(self, layer, tokens):
            asked = super().asks(layer, tokens)
            if asked is not None:
                numbers.update(tokens.sequence[asked.view(tokens.ids.shape).any(dim=1)].tolist())
            return asked

    audit = Noted(AuditMonitor([0.0] * 3, 0.05), share=0.3)
    policy = subject.policy(tables, observers=[audit], **more)
    for half in (text[: len(text) // 2], text[len(text) // 2 :]):
        with policy:
            for ids in half:
                subject.logits(ids)
    return sorted(numbers), policy.next_sequence


def test_a_later_run_audits_other_sequences_if_it_is_told_where_to_go_on(mixtral, tables):
    both, end = sampled(mixtral, tables["good"], texts(20))
    # Entered twice, and its numbers went on.
    assert end == 80 and max(both) > 40
    first, number = sampled(mixtral, tables["good"], texts(10))
    later, end = sampled(mixtral, tables["good"], texts(10), first_sequence=number)
    assert first + later == both and end == 80
    assert sampled(mixtral, tables["good"], texts(10)) == (first, number)
    with pytest.raises(VarError, match="numbered from 0"):
        mixtral.policy(tables["good"], first_sequence=-1)
