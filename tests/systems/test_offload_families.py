"""What offloading makes of every MoE family: the model's own numbers, or a refusal in one line."""

import pytest
import torch

from moe_families.build import build_family, tokens
from moe_families.configs import EXCLUDED, FAMILIES
from var_core.errors import VarError
from var_core.routing.sites import find_sites
from var_core.systems.offload.experts import Offloaded
from var_core.systems.offload.prefetch import RandomExperts
from var_core.systems.offload.store import MappedStore, write_experts

REFUSED = {
    *("dbrx", "doge", "jetmoe", "llama4", "longcat_flash", "nllb_moe", "step3p7", "switch_transformers"),
}
"""Families with their own ways of running experts."""


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(set(FAMILIES) - REFUSED))
def test_few_experts_at_a_time_compute_the_same(family, tmp_path):
    model, ids = build_family(family), tokens(2, 8)
    sites = find_sites(model, EXCLUDED.get(family, ()))
    write_experts(sites, tmp_path)
    store = MappedStore(tmp_path, len(sites))
    needed: list[int] = []
    with torch.inference_mode():
        expected = model(input_ids=ids, use_cache=False).last_hidden_state
        predictor = RandomExperts(len(sites), sites[0].number_of_experts, 2)
        for capacity in (2, sites[0].number_of_experts):
            with Offloaded(
                *(model, sites, store, capacity, False, 2, predictor),
                needed=lambda layer, experts: needed.append(len(experts)),
            ):
                found = model(input_ids=ids, use_cache=False).last_hidden_state
            # Tiny rows do not lie in memory as the whole tensor's do, on which the last bit of a product may depend.
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert len(needed) == 2 * len(sites)
    assert max(needed) > 2  # some went through in groups


@pytest.mark.parametrize("family", sorted(REFUSED))
def test_others_are_refused_in_one_line(family, tmp_path):
    with pytest.raises(VarError, match=r"cannot be offloaded|not supported") as error:
        write_experts(find_sites(build_family(family)), tmp_path)
    assert "\n" not in str(error.value)
