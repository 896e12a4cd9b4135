"""What is searched, and that a policy's parameters make the same policy again."""

import logging

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FixedTrial

from var_core.config.policy import BudgetConfig, LayerThresholds, PolicyCacheConfig, PolicyConfig
from var_core.config.tuning import SpaceConfig, TuningConfig
from var_core.tuning.space import classic_defaults, parameters_of, suggest, threshold

LAYERS = 3
CONFIGURED = PolicyConfig(measure="recall_at_k", static_tokens=(7,), budget=BudgetConfig(max_learned_share=0.4))
SEVERAL = SpaceConfig(weights=("stored", "live"))


def asked(parameters, space=SEVERAL, configured=CONFIGURED, layers=LAYERS):
    """The policy of given parameters, and the distributions that were asked for."""
    trial = FixedTrial(parameters)
    return suggest(trial, space, configured, layers), trial.distributions


def test_a_predicate_asks_for_its_own_thresholds_only():
    parameters = {"predicate": "agreement", "tables": "pair", "weights": "live", "capacity": 0, "thresholds": "global"}
    policy, distributions = asked(parameters | {"agreement_threshold": 0.7})
    assert distributions.keys() == parameters.keys() | {"agreement_threshold"}
    assert (policy.predicate, policy.tables, policy.weights) == ("agreement", ("token", "pair"), "live")
    assert (policy.agreement_threshold, policy.cache.capacity) == (0.7, 0)
    assert distributions["agreement_threshold"] == FloatDistribution(0, 1)
    assert distributions["tables"] == CategoricalDistribution(("token", "pair", "position"))

    # Nor for tables: the classic predicate goes by token ids alone.
    del parameters["tables"]
    policy, distributions = asked(
        parameters | {"predicate": "classic", "frequency_threshold": 9, "entropy_threshold": 2.5}
    )
    assert distributions.keys() == parameters.keys() | {"frequency_threshold", "entropy_threshold"}
    assert distributions["frequency_threshold"] == IntDistribution(1, 1000, log=True)
    assert (policy.frequency_threshold, policy.entropy_threshold) == (9, 2.5)
    assert policy.by_layer == LayerThresholds()


def test_thresholds_by_layer_are_a_parameter_each():
    parameters = {"predicate": "classic", "weights": "stored", "capacity": 64}
    parameters |= {"context_window": 3, "time_to_live": 17, "confidence_threshold": 0.25, "thresholds": "by_layer"}
    parameters |= {f"frequency_threshold_{layer}": 2 + layer for layer in range(LAYERS)}
    parameters |= {f"entropy_threshold_{layer}": 1.0 + layer for layer in range(LAYERS)}
    policy, distributions = asked(parameters)
    assert distributions.keys() == parameters.keys()
    assert policy.by_layer.frequency_threshold == (2, 3, 4) and policy.by_layer.entropy_threshold == (1.0, 2.0, 3.0)
    assert distributions["frequency_threshold_2"] == IntDistribution(1, 1000, log=True)
    assert distributions["time_to_live"] == IntDistribution(16, 4096, log=True)
    assert distributions["context_window"] == IntDistribution(2, 12)
    cache = policy.cache
    assert (cache.capacity, cache.context_window, cache.time_to_live, cache.confidence_threshold) == (64, 3, 17, 0.25)


def test_what_has_one_value_is_set_and_not_asked_for():
    space = SpaceConfig(
        predicate=("classic",), tables=("pair",), frequency_threshold=(5, 5), entropy_threshold=(0.2, 0.9),
        capacity=(32,), context_window=(4, 4), time_to_live=(99, 99), confidence_threshold=(0.5, 1), weights=("live",),
        thresholds=("by_layer",),
    )  # fmt: skip
    parameters = {"confidence_threshold": 0.75} | {f"entropy_threshold_{layer}": 0.5 for layer in range(LAYERS)}
    policy, distributions = asked(parameters, space)
    assert distributions.keys() == parameters.keys()
    assert (policy.predicate, policy.tables, policy.frequency_threshold) == ("classic", PolicyConfig().tables, 5)
    assert (policy.cache.capacity, policy.cache.context_window, policy.cache.time_to_live) == (32, 4, 99)
    assert policy.weights == "live" and policy.by_layer.frequency_threshold == ()


def test_nothing_is_by_layer_where_there_is_one_layer_or_one_number():
    _, distributions = asked(
        {"agreement_threshold": 0.5}, SpaceConfig(predicate=("agreement",), capacity=(0,), tables=("token",)), layers=1
    )
    assert distributions.keys() == {"agreement_threshold"}
    space = SpaceConfig(predicate=("agreement",), agreement_threshold=(0.5, 0.5), capacity=(0, 8), tables=("token",))
    assert asked({"capacity": 0}, space)[1].keys() == {"capacity"}


def test_what_the_space_does_not_name_stays_as_configured():
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    for _ in range(20):
        policy = suggest(study.ask(), SEVERAL, CONFIGURED, LAYERS)
        for name in ("enabled", "measure", "static_tokens", "budget", "audit"):
            assert getattr(policy, name) == getattr(CONFIGURED, name)
        assert policy.cache.shared is CONFIGURED.cache.shared


@given(st.integers(0, 2**32 - 1), st.integers(1, 4))
def test_a_policy_of_the_space_is_made_again_of_its_parameters(seed, layers):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    trial = study.ask()
    policy = suggest(trial, SEVERAL, CONFIGURED, layers)
    parameters = parameters_of(policy, SEVERAL, CONFIGURED, layers)
    assert parameters == trial.params
    assert suggest(FixedTrial(parameters), SEVERAL, CONFIGURED, layers) == policy


def test_the_classic_defaults_are_of_the_default_space():
    configured = PolicyConfig(by_layer=LayerThresholds(agreement_threshold=(0.1, 0.2, 0.3)))
    parameters = parameters_of(classic_defaults(configured), TuningConfig().space, configured, LAYERS)
    assert parameters == {
        "predicate": "classic", "thresholds": "global", "frequency_threshold": 50,
        "entropy_threshold": 0.5, "capacity": 1024, "context_window": 8, "time_to_live": 4096,
        "confidence_threshold": 0.5,
    }  # fmt: skip
    own = parameters_of(configured, TuningConfig().space, configured, LAYERS)
    assert [own[f"agreement_threshold_{layer}"] for layer in range(LAYERS)] == [0.1, 0.2, 0.3]


def test_one_threshold_is_also_one_for_each_layer():
    space = SpaceConfig(thresholds=("by_layer",))
    parameters = parameters_of(PolicyConfig(), space, PolicyConfig(), LAYERS)
    assert [parameters[f"agreement_threshold_{layer}"] for layer in range(LAYERS)] == [0.8] * LAYERS
    assert "thresholds" not in parameters


@pytest.mark.parametrize(
    ("policy", "space", "reason"),
    [
        ({}, {"agreement_threshold": (0, 0.5)}, "agreement_threshold is 0.8, outside of [0, 0.5]"),
        ({}, {"agreement_threshold": (0.5, 0.5)}, "agreement_threshold is (0.8, 0.8, 0.8), and nothing but (0.5,"),
        ({}, {"predicate": ("classic",)}, "predicate agreement: it has no frequency_threshold"),
        ({"weights": "live"}, {}, "weights is live, and nothing but stored is searched"),
        ({"cache": PolicyCacheConfig(capacity=5)}, {}, "capacity is 5, which is none of 0, 64, 256, 1024"),
        ({"cache": PolicyCacheConfig(capacity=64, context_window=1)}, {}, "context_window is 1, outside of [2, 12]"),
        ({"predicate": "classic", "frequency_threshold": 0}, {}, "frequency_threshold is 0, outside of [1, 1000]"),
        ({"tables": ("token",)}, {"tables": ("pair", "position")}, "tables is token, which is none of pair, position"),
        ({"by_layer": LayerThresholds(agreement_threshold=(0.1, 0.2, 0.3))}, {"thresholds": ("global",)},
         "thresholds is by_layer, and nothing but global is searched"),
    ],
)  # fmt: skip
def test_a_policy_outside_of_the_space_has_no_parameters_and_the_log_says_why(policy, space, reason, caplog):
    policy = PolicyConfig(**policy)
    with caplog.at_level(logging.INFO):
        assert parameters_of(policy, SpaceConfig(**space), policy, LAYERS) is None
    assert reason in caplog.text and len(caplog.records) == 1


def test_columns_of_a_policy():
    policy = PolicyConfig(predicate="classic", by_layer=LayerThresholds(entropy_threshold=(1.0, 2.0)))
    assert policy.table_set == "position"
    assert threshold(policy, "agreement_threshold") is None
    assert threshold(policy, "frequency_threshold") == (50,)
    assert threshold(policy, "entropy_threshold") == (1.0, 2.0)


def test_tables_are_the_same_choice_in_whatever_order_they_are_named():
    policy = PolicyConfig(tables=("pair", "token"))
    assert policy.table_set == "pair" and PolicyConfig().table_set == "position"
    assert SpaceConfig().needed_sets(policy) == ("token", "pair")
    assert SpaceConfig(tables=("token",)).needed_sets(policy) == ("token", "pair")
    parameters = parameters_of(policy, SpaceConfig(), policy, LAYERS)
    assert parameters is not None and parameters["tables"] == "pair"
