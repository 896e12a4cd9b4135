import numpy as np
import pytest

from var_core.errors import VarError
from var_core.hypotheses.data import RunData, expert_masks

RUN = "simulated/text"


@pytest.fixture(scope="module")
def samples(simulated):
    return simulated(types=50, documents=24, tokens=4000, experts=70, top_k=3, layers=2, shards=4, seed=5)


@pytest.fixture(scope="module")
def data(samples):
    return RunData(samples, RUN)


def test_special_tokens_are_no_types(data):
    assert data.special_left_out == 1 and not data.special_kept
    assert 0 not in data.token_ids
    assert (np.diff(data.token_ids) > 0).all()


def test_special_tokens_are_kept_when_nothing_else_occurs(simulated):
    data = RunData(simulated(types=4, special=(0, 1, 2, 3), documents=8, tokens=300), RUN)
    assert data.special_kept and data.types == 4


def test_counts_add_up(data, samples):
    layer = data.layers[1]
    counts = data.expert_counts(layer)
    moments = data.token_moments(layer.layer)
    assert (counts.n == moments.n).all()
    assert (counts.chosen.sum(axis=1) == 3 * counts.n).all()
    assert (counts.first.sum(axis=1) == counts.n).all()
    by_domain = sum(data.expert_counts(layer, domains=[domain]).chosen for domain in data.domains)
    assert (by_domain == counts.chosen).all()
    of_special = samples.sql(
        "SELECT sum(n) FROM token_stats WHERE split = 'capture' AND layer = 1 AND token_id = 0"
    ).fetchall()[0][0]
    assert counts.n.sum() == 4000 - of_special


def test_leaving_a_shard_out_is_counting_the_others(data, samples):
    layer = data.layers[0]
    counts, moments = data.expert_counts(layer), data.token_moments(0)
    left_out = list(data.left_out_counts(layer, counts))
    left_out_moments = data.left_out_moments(0, moments)
    assert len(left_out) == len(data.shards) == 4
    assert (sum(part.chosen for part in left_out) == 3 * counts.chosen).all()
    assert (left_out_moments.n == np.stack([part.n for part in left_out])).all()
    token = int(data.token_ids[3])
    rows = samples.sql(
        f"SELECT sum(n * router_entropy_mean) / sum(n) FROM shard_token_stats"
        f" WHERE split = 'capture' AND layer = 0 AND token_id = {token} AND shard <> 2"
    ).fetchall()
    assert left_out_moments.mean_router_entropy[2, 3] == pytest.approx(rows[0][0], rel=1e-12)


def test_heldout_decisions_agree_with_the_heldout_counts(data):
    layer = data.layers[0]
    heldout, counts = data.heldout(layer), data.expert_counts(layer, split="heldout")
    assert (np.bincount(heldout.type_index, minlength=data.types) == counts.n).all()
    assert heldout.masks.shape[1] == 2  # 70 experts need two words of 64 bits
    assert (np.bitwise_count(heldout.masks).sum(axis=1) == 3).all()
    first = np.zeros_like(counts.first)
    np.add.at(first, (heldout.type_index, heldout.first), 1)
    assert (first == counts.first).all()  # found by weight, though the trace does not sort by it
    assert set(np.unique(heldout.document)) <= set(data.heldout_documents)
    assert set(np.unique(heldout.domain)) == {0, 1}


def test_masks_have_the_bits_of_the_experts():
    masks = expert_masks(np.array([[0, 63], [64, 1]]), 65)
    assert masks.tolist() == [[1 | 1 << 63, 0], [2, 1]]


def test_unknown_run_is_one_line(samples):
    with pytest.raises(VarError, match=r"^run nobody/nothing: is not in the database; run its statistics stage first$"):
        RunData(samples, "nobody/nothing")


def test_missing_trace_says_what_to_do(simulated):
    connection = simulated(types=20, documents=8, tokens=300)
    connection.execute("DELETE FROM traces WHERE layer = 1")
    data = RunData(connection, RUN)
    with pytest.raises(VarError, match=r"no held-out trace of layer 1; add 'heldout' to capture\.trace"):
        data.heldout(data.layers[1])


def test_trace_with_another_number_of_experts_is_refused(simulated):
    connection = simulated(types=20, documents=8, tokens=300)
    connection.execute("UPDATE traces SET experts = experts[:1] WHERE layer = 0")
    data = RunData(connection, RUN)
    with pytest.raises(VarError, match="other than 2 experts"):
        data.heldout(data.layers[0])


def test_shards_that_do_not_add_up_are_refused(simulated):
    connection = simulated(types=20, documents=8, tokens=300)
    connection.execute("DELETE FROM shard_expert_counts WHERE shard = 1")
    connection.execute("DELETE FROM shard_token_stats WHERE shard = 1")
    data = RunData(connection, RUN)
    with pytest.raises(VarError, match="do not add up"):
        list(data.left_out_counts(data.layers[0], data.expert_counts(data.layers[0])))
    with pytest.raises(VarError, match="do not add up"):
        data.left_out_moments(0, data.token_moments(0))


def test_without_counts_by_shard_nothing_is_left_out(simulated):
    data = RunData(simulated(shard_counts=False, types=20, documents=8, tokens=300), RUN)
    assert not data.has_shard_counts
    assert list(data.left_out_counts(data.layers[0], data.expert_counts(data.layers[0]))) == []


def test_other_runs_in_the_database_change_nothing(simulated):
    connection = simulated(types=30, documents=8, tokens=500)
    before = RunData(connection, RUN)
    expected = before.expert_counts(before.layers[0])
    for table in ("layers", "tokens", "token_stats", "shard_token_stats", "expert_counts", "shard_expert_counts"):
        connection.execute(f"INSERT INTO {table} SELECT * REPLACE ('other/run' AS run) FROM {table}")
    after = RunData(connection, RUN)
    assert after.layers == before.layers and after.types == before.types
    assert (after.expert_counts(after.layers[0]).chosen == expected.chosen).all()
