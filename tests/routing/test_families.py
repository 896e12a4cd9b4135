"""Every family of the supported-models page, on a tiny model of its own."""

from pathlib import Path

import pytest
import torch
from accelerate import disk_offload

from moe_families.build import build_family, tokens
from moe_families.configs import BASES, EXCLUDED, FAMILIES, SCORINGS
from moe_families.matrix import Row, permute_and_force, run
from moe_families.page import EXACT, render, rows
from moe_families.wholes import WHOLES
from var_core.errors import VarError
from var_core.routing.batch import RoutedBatch
from var_core.routing.checks import check_attach
from var_core.routing.forcing import Forcer
from var_core.routing.inputs import text_inputs
from var_core.routing.scoring import identify_layout
from var_core.routing.sites import find_sites

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "supported-models.md"
ADAPTED = {"doge", "jetmoe", "llama4", "switch_transformers"}
CAPTURED = sorted(set(FAMILIES) - {"nllb_moe"})


@pytest.fixture(scope="module")
def results() -> dict[str, Row]:
    return {row.family: row for row in rows()}


def test_all_families_are_there(results):
    assert len(results) == 72
    assert sum(row.reader == "contract" for row in results.values() if row.refused is None) == 67


@pytest.mark.parametrize("family", CAPTURED)
def test_family(results, family):
    row = results[family]
    assert row.refused is None
    assert row.sites == row.expected_sites
    assert row.in_order
    assert row.scoring == SCORINGS[family], "the family's own formula"
    assert row.basis == BASES[family]
    assert row.wrapped is (True if family in WHOLES else None)
    assert row.recombination < EXACT
    assert row.reader == ("adapter" if family in ADAPTED else "contract")
    if family in ADAPTED:
        assert row.unforceable
    else:
        assert row.unforceable is None
        assert row.permuted < EXACT
        assert row.unforced > 0.1, "the control: permuted experts without forcing change what the model computes"


def test_the_refused_family_says_why(results):
    assert "only experts 0 and 1 ever run" in results["nllb_moe"].refused


def test_the_page_is_current():
    assert PAGE.read_text(encoding="utf-8") == render(rows()), "run make docs"


@pytest.mark.parametrize("family", CAPTURED)
def test_shuffled_logits_are_refused(family):
    model = build_family(family)
    sites = find_sites(model, EXCLUDED.get(family, ()))
    _, batch = run(model, sites, text_inputs(model, tokens()))
    identify_layout(sites, batch)
    with pytest.raises(VarError, match="its logits do not explain its decisions"):
        identify_layout(sites, RoutedBatch(batch.logits.roll(1, dims=1), batch.experts, batch.weights))


def test_permuting_is_noticed_where_one_decision_is_forced_wrongly():
    """The whole-model check can fail: with one layer's decisions left as they were, the output changes."""
    model = build_family("mixtral")
    sites = find_sites(model)
    inputs = text_inputs(model, tokens())
    output, _ = run(model, sites, inputs)
    forced, unforced = permute_and_force(model, sites, inputs, output)
    assert forced < EXACT < unforced
    again, _ = permute_and_force(model, sites[1:], inputs, output)
    assert again > EXACT


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", ["mixtral", "deepseek_v3", "gemma4", "zaya", "jetmoe", "llama4"])
def test_scoring_is_the_same_in_half_precision(results, family, dtype):
    model = build_family(family).to(dtype)
    sites = find_sites(model)
    _, batch = run(model, sites, text_inputs(model, tokens()))
    identified = identify_layout(sites, batch)
    assert {layer.scoring for layer in identified.layout.layers} == {results[family].scoring}
    assert set(identified.basis) == {"fitted"}
    assert max(check_attach(model, sites, text_inputs(model, tokens(1, 8)))) < 1e-2


@pytest.mark.parametrize("family", ["mixtral", "deepseek_v3", "zaya", "doge", "switch_transformers"])
def test_parts_that_are_offloaded_are_read_like_others(family, tmp_path):
    """Weights on disk are meta tensors between calls; accelerate brings them in around each module's forward."""
    model = build_family(family)
    inputs = text_inputs(model, tokens())
    output, batch = run(model, find_sites(model), inputs)
    disk_offload(model, tmp_path, execution_device=torch.device("cpu"), offload_buffers=True)
    assert any(parameter.is_meta for parameter in model.parameters())
    sites = find_sites(model)
    again, offloaded = run(model, sites, inputs)
    assert torch.equal(again, output)
    assert torch.equal(offloaded.experts, batch.experts)
    assert max(check_attach(model, sites, text_inputs(model, tokens(1, 8)))) < EXACT
    if sites[0].forceable:
        same = {s.layer: (batch.experts[s.layer], batch.weights[s.layer]) for s in sites}
        assert torch.equal(run(model, sites, inputs, Forcer(sites, same))[0], output)
