"""A policy in every family whose decisions can be forced: exact to the bit without tables, exact with an oracle."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from moe_families.build import build_family, tokens
from moe_families.configs import EXCLUDED, FAMILIES, VOCABULARY
from var_core.errors import VarError
from var_core.policy.fit import _fitted
from var_core.policy.fitting import ExpertSums
from var_core.policy.runtime import RuntimePolicy
from var_core.policy.settings import PolicySettings
from var_core.policy.tables import assemble
from var_core.routing.inputs import text_inputs
from var_core.routing.recorder import Recorder
from var_core.routing.scoring import identify_layout
from var_core.routing.sites import find_sites


def oracle(layout, key, batch):
    """A table of a text's own decisions; every token id is there once."""
    by_token, everywhere = [], []
    for layer, shape in enumerate(layout.layers):
        experts, weights = batch.experts[layer].numpy(), batch.weights[layer].double().numpy()
        experts = np.where(experts >= layout.experts, shape.experts, experts)[:, : shape.top_k]
        for keys, parts in ((key, by_token), (np.zeros_like(key), everywhere)):
            sums = ExpertSums.of_decisions(keys, experts, weights[:, : shape.top_k], shape.experts)
            parts.append(_fitted(sums, layout, layer, None, 1))
    return assemble(VOCABULARY, layout.experts, by_token, everywhere)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_policy_runs_in_every_family_that_can_be_forced(family):
    model = build_family(family)
    try:
        sites = find_sites(model, EXCLUDED.get(family, ()))
    except VarError:
        pytest.skip("refused")
    if not all(site.forceable for site in sites):
        pytest.skip("cannot be forced")
    ids = (torch.randperm(VOCABULARY - 3, generator=torch.Generator().manual_seed(0))[:40] + 3).view(2, 20)
    inputs = text_inputs(model, ids)
    with Recorder(sites) as recorder, torch.inference_mode():
        plain = model(**inputs).last_hidden_state.clone()
        batch = recorder.take()
        model(**text_inputs(model, tokens(4, 32)))
        layout = identify_layout(sites, recorder.take()).layout
    tables = oracle(layout, ids.flatten().numpy(), batch)
    random = torch.Generator().manual_seed(1)
    half = tables.present & (torch.rand(tables.present.shape, generator=random) < 0.5)
    half[:, -1] = False

    def run(usable):
        try:
            policy = RuntimePolicy(model, sites, layout, replace(tables, usable=usable), PolicySettings())
        except VarError as error:
            pytest.skip(str(error))
        with policy, torch.inference_mode():
            return model(**inputs).last_hidden_state

    assert torch.equal(run(torch.zeros_like(half)), plain)
    # Other tokens at every layer, so that what a router hands on to the next one's would be missed.
    assert float((run(half) - plain).abs().max() / plain.abs().max()) < 1e-4
