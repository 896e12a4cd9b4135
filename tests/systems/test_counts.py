"""Counts: held against what torch counts when small real models run."""

import re

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from moe_families.build import build_family
from moe_families.configs import EXCLUDED
from moe_models import MOE_CONFIGS, VOCABULARY, build_model
from var_core.errors import VarError
from var_core.routing.sites import find_sites
from var_core.systems.counts import amdahl_ceiling, count, expected_distinct
from var_core.systems.detect import shape_of
from var_core.systems.devices import PRESETS
from var_core.systems.mixing import mixing_modules
from var_core.systems.names import PARTS
from var_core.systems.published import published_shape
from var_core.systems.roofline import part_seconds
from var_core.systems.shape import LayerShape, Mixing, ModelShape, Weights, shape_of_recorded

BATCH, LENGTH = 3, 11
LATENT = {"deepseek_v3"}  # transformers expands the whole cache for each token, where kernels absorb
FURTHER = (
    *("afmoe", "dbrx", "dots1", "ernie4_5_moe", "gemma4", "glm4_moe", "gpt_oss", "granitemoeshared"),
    *("hunyuan_v1_moe", "laguna", "mimo_v2_flash", "minimax_m2", "phimoe"),
)
"""Families, beside those of `moe_models`, with plain attention."""


def model_of(family):
    model = build_model(family) if family in MOE_CONFIGS else build_family(family)
    model.set_attn_implementation("eager")  # torch counts no fused attention on a CPU
    if family != "dbrx":  # it runs its experts in its own way
        model.set_experts_implementation("eager")
    sites = find_sites(model, EXCLUDED.get(family, ()))
    return model, sites, shape_of(model, sites, family)


def tokens(length):
    return torch.randint(3, VOCABULARY, (BATCH, length), generator=torch.Generator().manual_seed(length))


def run(model, phase):
    """Operations that torch counts, by the module's path: with weights, and of activations with activations."""
    with torch.no_grad():
        past = model(tokens(LENGTH)).past_key_values if phase == "decode" else None
        with FlopCounterMode(display=False) as counter:
            model(tokens(1 if phase == "decode" else LENGTH), past_key_values=past)
    found = {}
    for path, operations in counter.get_flop_counts().items():
        pairs = sum(n for operation, n in operations.items() if "bmm" in str(operation))
        found[path.partition(".")[2]] = (sum(operations.values()) - pairs, pairs)
    return found


def of_layer(counts, place):
    return {one.part: one for one in counts if one.layer == place}


@pytest.mark.parametrize("phase", ["prefill", "decode"])
@pytest.mark.parametrize("family", sorted({*MOE_CONFIGS, *LATENT, *FURTHER}))
def test_operations_are_those_that_torch_counts(family, phase):
    model, sites, shape = model_of(family)
    found = run(model, phase)
    counts = count(shape, phase, BATCH, LENGTH, head_tokens=LENGTH)
    ran = BATCH * (1 if phase == "decode" else LENGTH)
    computed = ran * (LENGTH + 1 if phase == "decode" else LENGTH)  # eager attention computes what it masks
    needed = BATCH * (LENGTH + 1 if phase == "decode" else LENGTH * (LENGTH + 1) // 2)
    for site, place in zip(sites, shape.moe_places, strict=True):
        ours = of_layer(counts, place)
        assert ours["gate"].flops == found[site.router_path][0] > 0
        assert ours["experts"].flops == found[site.path][0] > 0
    for place, layer in enumerate(shape.layers):
        ours, block = of_layer(counts, place), re.match(r".*?\d+(?=\.|$)", layer.path)[0]
        [attention] = [path for path, _ in mixing_modules(model.get_submodule(block))]
        weights, pairs = found[f"{block}.{attention}"]
        mixing = layer.mixing[0]
        assert pairs == 2 * (mixing.score_width + mixing.value_width) * computed
        rest = sum(one.flops for part, one in ours.items() if part != "attention")
        assert rest == found[block][0] - weights
        if family not in LATENT or phase == "prefill":
            assert ours["attention"].flops == weights + pairs * needed / computed
    if family in MOE_CONFIGS:
        [head] = [one for one in counts if one.part == "lm_head"]
        assert head.flops == found["lm_head"][0]


def test_latent_attention_decodes_with_its_projections_absorbed():
    model, _, shape = model_of("deepseek_v3")
    found = run(model, "decode")
    ours = of_layer(count(shape, "decode", BATCH, LENGTH), 1)["attention"]
    expanded = found["layers.1.self_attn.kv_b_proj"][0]
    once = found["layers.1.self_attn"][0] - expanded + expanded / (LENGTH + 1)
    assert ours.flops == once + 2 * BATCH * (LENGTH + 1) * 4 * (16 + 8 + 16)
    assert ours.key_value_bytes == 4 * BATCH * (LENGTH + 1 + 1) * (16 + 8)


@pytest.mark.parametrize(("new", "behind"), [(6, 0), (1, 0), (1, 3), (1, 9)])
@pytest.mark.parametrize("window", [None, 1, 4, 7, 20])
def test_tokens_attend_as_far_as_the_window_reaches(window, new, behind):
    attention = LayerShape("0", attention=Weights(), mixing=(Mixing(1.0, 0.0, 1.0, 0.0, 1.0, window),))
    shape = ModelShape("one", 1.0, 1, 1, Weights(), None, False, Weights(), Weights(), (attention,))
    phase, context = ("prefill", new) if new > 1 else ("decode", behind)
    [ours] = [one for one in count(shape, phase, 5, context) if one.part == "attention"]
    seen = [min(position, window or position) for position in range(behind + 1, behind + new + 1)]
    assert ours.flops == 2 * 5 * sum(seen)
    kept = new if new > 1 else seen[0]
    assert ours.key_value_bytes == 5 * (kept + new)


def test_weights_are_read_once_and_of_experts_those_that_are_needed():
    _, sites, shape = model_of("qwen2_moe")
    counts = count(shape, "decode", 1, 7)
    whole = sum(one.weight_bytes for one in counts)
    table = shape.embedding.parameters * 4
    skipped = sum(5 * shape.expert_bytes(layer) for layer in range(3))
    assert whole == pytest.approx(shape.weight_bytes - skipped - table + 32 * 4)
    given = count(shape, "decode", 1, 7, distinct=[8, 1, 3])
    read = [one.weight_bytes for one in given if one.part == "experts"]
    assert read == [8 * shape.expert_bytes(0), shape.expert_bytes(1), 3 * shape.expert_bytes(2)]
    assert len(sites) == 3 and {one.part for one in counts} == set(PARTS) - {"dense"}


CACHES = (
    *("bailing_hybrid", "dbrx", "deepseek_v3", "gemma4", "gpt_oss", "granitemoehybrid", "jamba", "kimi_linear"),
    *("lfm2_moe", "mimo_v2_flash", "mixtral", "nemotron_h", "qwen3_next"),
)
"""Families of every kind of cache: keys and values, a latent, a recurrent state, the last inputs of a convolution."""


@pytest.mark.parametrize("family", CACHES)
def test_caches_are_as_large_as_those_of_the_running_model(family):
    model = build_family(family)
    shape = shape_of(model, find_sites(model), family)
    with torch.no_grad():
        past = model(tokens(LENGTH), use_cache=True).past_key_values
    held = 0
    for place, (layer, cache) in enumerate(zip(shape.layers, past.layers, strict=True)):
        ours = of_layer(count(shape, "decode", BATCH, LENGTH), place).get("attention")
        keys, states = getattr(cache, "keys", None), getattr(cache, "recurrent_states", None)
        if keys is not None:
            stored = (keys.nbytes + cache.values.nbytes) / LENGTH
            assert ours.key_value_bytes == stored * (LENGTH + 2)  # all behind and the new one read, and that written
        elif states is not None:
            # a convolution alone has no other state; beside another one, its last inputs are left out
            kept = [state for state in states.values() if state is not None] or cache.conv_states.values()
            assert ours.key_value_bytes == 2 * sum(state.nbytes for state in kept) > 0
        else:
            assert layer.attention is None
            continue
        held += 1
    assert held >= 2


def test_a_state_is_updated_and_read_out_for_each_token():
    model = build_family("qwen3_next")
    shape = shape_of(model, find_sites(model), "mine")
    for phase, ran in (("prefill", 5 * LENGTH), ("decode", 5)):
        ours = of_layer(count(shape, phase, 5, LENGTH), 0)["attention"]
        assert ours.flops - 2 * shape.layers[0].attention.matrix * ran == 2 * 2 * 4 * 8 * 8 * ran


def test_activations_by_hand():
    _, _, shape = model_of("qwen2_moe")  # hidden 32, E 8, k 3, experts of 24, a shared one of 40
    ours = of_layer(count(shape, "prefill", 2, 5), 1)
    assert ours["gate"].activation_bytes == 10 * (32 + 8) * 4
    assert ours["experts"].activation_bytes == 10 * 3 * ((32 + 2 * 24) + (24 + 32)) * 4
    assert ours["shared_experts"].activation_bytes == 10 * (3 * (32 + 40) + (32 + 1)) * 4
    gathered, returned = 2 * 10 * 3 * 32, 10 * 3 * 32 + 10 * 32
    assert ours["dispatch"].activation_bytes == (gathered + returned) * 4
    assert ours["top_k"].activation_bytes == 10 * (8 * 4 + 3 * (4 + 8))
    assert ours["attention"].activation_bytes == 10 * ((32 + 32) * 2 + (32 + 16) * 2) * 4


def test_distinct_experts_with_even_loads():
    assert expected_distinct(8, 2, 1) == pytest.approx(2)
    assert expected_distinct(64, 8, 10_000) == pytest.approx(64)
    draw = torch.rand(4000, 5, 16, generator=torch.Generator().manual_seed(0)).argsort(-1)[..., :4]
    seen = torch.zeros(4000, 16).scatter_(1, draw.reshape(4000, -1), 1.0).sum(1)
    assert expected_distinct(16, 4, 5) == pytest.approx(float(seen.mean()), abs=5 * float(seen.std()) / 4000**0.5)


def test_the_ceiling_of_skipping_the_gate_by_hand():
    counts = count(published_shape("mixtral-8x7b"), "decode", 1, 0)
    gate = 32 * 2 * 8 * 4096
    experts = 32 * 2 * 2 * 3 * 4096 * 14_336
    attention = 32 * 2 * (2 * 4096 * 4096 + 2 * 4096 * 1024) + 32 * 2 * 2 * 4096
    head = 2 * 32_000 * 4096
    whole = gate + experts + attention + head
    assert sum(one.flops for one in counts) == whole
    assert amdahl_ceiling(counts, "gate") == pytest.approx(whole / (whole - gate), rel=1e-12)
    by_time = amdahl_ceiling(counts, ("gate", "top_k"), lambda one: part_seconds(one, PRESETS["h100-sxm"]))
    assert by_time > amdahl_ceiling(counts, "gate") > 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("training", 1, 1), "phase: 'training' is none of prefill, decode"),
        (("decode", 0, 1), "batch 0 and context 1 must be positive"),
        (("decode", 1, -1), "batch 1 and context -1 must be positive"),
        (("prefill", 1, 0), "batch 1 and context 0 must be positive"),
        (("decode", 1, 1, [1.0]), "distinct must be one number for each of 16 MoE layers"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments, said):
    with pytest.raises(VarError, match=re.escape(said)):
        count(published_shape("olmoe-1b-7b"), *arguments)


def test_what_was_recorded_elsewhere_cannot_be_counted():
    with pytest.raises(VarError, match="elsewhere: was recorded elsewhere, so that only its experts are known"):
        count(shape_of_recorded("elsewhere", 2, 8, 2), "decode", 1, 1)


def test_nothing_left_has_no_ceiling():
    with pytest.raises(VarError, match="nothing is left of a pass without"):
        amdahl_ceiling(count(published_shape("olmoe-1b-7b"), "decode", 1, 1), PARTS)
