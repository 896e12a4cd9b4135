"""The model of the loss finds what is there, promises nothing of what is not, and its probes cover each layer."""

import numpy as np
import pytest

from var_core.config.policy import PolicyConfig
from var_core.config.tuning import SpaceConfig
from var_core.policy.make import choose_by
from var_core.tuning.loss_model import LossModel, fit_loss_model, probe_policies
from var_core.tuning.prepared import Sums


def probes(layers, number, seed=0, noise=0.0, by_layer=None, replaced=-0.01):
    """Made up: features of random policies, and losses that follow from them."""
    random = np.random.default_rng(seed)
    misplaced = random.uniform(0, 0.3, (number, layers))
    explaining = np.column_stack([misplaced, random.uniform(0, 1, number)])
    truth = np.append(np.full(layers, 0.05) if by_layer is None else by_layer, replaced)
    return explaining, explaining @ truth + random.normal(0, noise, number) if noise else explaining @ truth, truth


def test_what_is_there_is_found():
    explaining, losses, truth = probes(4, 12, by_layer=[0.01, 0.05, 0.0, 0.2])
    found = fit_loss_model(explaining, losses, 4.0)
    assert [*found.misplaced, found.replaced] == pytest.approx(truth, abs=1e-4)
    assert found.error < 1e-4 < found.spread
    assert found.plain == 4.0 and found.probes == 12


def test_many_layers_with_few_probes_are_held_together():
    explaining, losses, _ = probes(24, 12, noise=0.002)
    found = fit_loss_model(explaining, losses, 4.0)
    more, others, _ = probes(24, 200, seed=1)
    predicted = more @ np.array([*found.misplaced, found.replaced])
    assert np.corrcoef(predicted, others)[0, 1] > 0.9
    assert np.sqrt(np.mean((predicted - others) ** 2)) < 0.3 * np.std(others)


def test_losses_that_follow_from_nothing_are_not_predicted():
    shares = []
    for seed in range(20):
        losses = np.random.default_rng(100 + seed).normal(0, 0.01, 12)
        found = fit_loss_model(probes(4, 12, seed=seed)[0], losses, 4.0)
        shares.append(found.error / found.spread)
    # The best of several strengths is a little optimistic, but not much.
    assert np.median(shares) > 0.9


def test_no_layer_is_said_to_gain_by_misplaced_weights():
    explaining, losses, _ = probes(4, 12, by_layer=[-0.2, 0.05, 0.05, 0.05])
    assert min(fit_loss_model(explaining, losses, 4.0).misplaced) >= 0


def test_it_is_read_back_as_written():
    explaining, losses, _ = probes(3, 8)
    found = fit_loss_model(explaining, losses, 4.0)
    assert LossModel.of_record(found.record()) == found


def test_a_policy_that_replaces_nothing_costs_nothing():
    values = np.zeros((5, 3, 3, 4))
    values[:, :, 0, :3] = 40
    assert LossModel((1.0, 2.0, 3.0), -0.5, 4.0, 0.0, 0.0, 8).difference(Sums(values)) == 0


def test_probes_cover_each_layer_to_any_degree(calibrated):
    trace, name = calibrated
    drawn = probe_policies(trace, name, SpaceConfig(capacity=(0, 16)), PolicyConfig(), 8, 0)
    assert drawn == probe_policies(trace, name, SpaceConfig(capacity=(0, 16)), PolicyConfig(), 8, 0)
    tables, taken = trace.tables[name], []
    for policy in drawn:
        chosen = choose_by(tables, policy, None)
        entries = tables.present[:, :-1].sum(dim=1)
        taken.append((chosen.usable.sum(dim=1) / entries).tolist())
    assert taken[0] == pytest.approx([1] * 3)
    assert np.min(taken, axis=0).max() < 0.2
    assert {policy.cache.capacity for policy in drawn} == {0, 16}
    with_live = probe_policies(trace, name, SpaceConfig(weights=("stored", "live")), PolicyConfig(), 8, 0)
    assert {policy.weights for policy in with_live} == {"stored", "live"}
