"""Experts in slow memory: what is written is what is read, and only what is resident takes memory."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from moe_models import build_model
from policy_subject import Subject
from var_core.errors import VarError
from var_core.routing.sites import find_sites
from var_core.systems.offload.slots import Slots
from var_core.systems.offload.store import MappedStore, PinnedStore, fused_parameters, layer_file, write_experts
from var_core.systems.offload.transfer import Link


@pytest.mark.parametrize("from_disk", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_is_written_is_what_is_read(tmp_path, dtype, from_disk):
    model = build_model("qwen3_moe").to(dtype)
    sites = find_sites(model)
    write_experts(sites, tmp_path)
    store = MappedStore(tmp_path, len(sites), from_disk)
    for site in sites:
        own = fused_parameters(site)
        assert set(own) == {"gate_up_proj", "down_proj"}
        for expert in (0, 5, 11, 5):
            parts = store.parts(site.layer, expert)
            for name, part in parts.items():
                assert part.dtype == dtype
                assert torch.equal(part, own[name][expert])
            store.copied(site.layer, expert)
    assert store.experts(0) == 12
    expert_bytes = sum(part.bytes for part in store.layout(0).values())
    assert expert_bytes == 3 * 24 * 32 * dtype.itemsize


def test_the_files_are_plain_safetensors(tmp_path):
    sites = find_sites(build_model("mixtral"))
    write_experts(sites, tmp_path)
    tensors = load_file(layer_file(tmp_path, 2))
    assert torch.equal(tensors["down_proj"], sites[2].experts.down_proj)


@pytest.mark.parametrize("fault", ["missing", "short", "no header", "scalar"])
def test_a_file_that_is_no_store_is_one_line(tmp_path, fault):
    write_experts(find_sites(build_model("mixtral")), tmp_path)
    path = layer_file(tmp_path, 1)
    if fault == "missing":
        path.unlink()
    elif fault == "short":
        path.write_bytes(path.read_bytes()[:-1])
    elif fault == "no header":
        path.write_bytes(b"not a header")
    else:
        save_file({"alone": torch.tensor(1.0)}, path)
    with pytest.raises(VarError, match=r"layer-001.*write the model's experts anew") as error:
        MappedStore(tmp_path, 3)
    assert "\n" not in str(error.value)


def test_experts_that_are_not_fused_are_refused():
    model = build_model("mixtral")
    site = find_sites(model)[1]
    packed = site.experts.down_proj.data.to(torch.int32)
    site.experts.down_proj = torch.nn.Parameter(packed, requires_grad=False)
    with pytest.raises(
        VarError, match=r"layers\.1\.mlp\.experts .*quantised, or not fused.*load the model unquantised"
    ):
        fused_parameters(site)


def test_experts_that_accelerate_moves_are_refused():
    site = find_sites(build_model("mixtral"))[0]
    site.experts._hf_hook = object()
    with pytest.raises(VarError, match="accelerate moves its weights already"):
        fused_parameters(site)


def test_capacity_is_not_shared_by_unlike_layers(tmp_path):
    for layer, width in enumerate((4, 6)):
        save_file({"up": torch.zeros(3, width, 2)}, layer_file(tmp_path, layer))
    store = MappedStore(tmp_path, 2)
    with pytest.raises(VarError, match="experts differ in shape; give it per layer"):
        Slots(store, 2, 3, True, torch.device("cpu"))
    slots = Slots(store, 2, 2, False, torch.device("cpu"))
    assert [tuple(slots.of(layer)["up"].shape) for layer in range(2)] == [(2, 4, 2), (2, 6, 2)]
    assert [slots.expert_bytes(layer) for layer in range(2)] == [32, 48]


@pytest.mark.parametrize(
    ("bandwidth", "latency", "message"),
    [(0, 0, "link_bandwidth: 0 "), (-1.0, 0, "link_bandwidth: -1"), (1.0, -1e-3, "link_latency: -0.001 ")],
)
def test_a_link_that_cannot_be_is_refused(bandwidth, latency, message):
    with pytest.raises(VarError, match=message):
        Link(bandwidth, latency)


_RUN = """
import json, sys
from pathlib import Path
import torch
from transformers import AutoModelForCausalLM, MixtralConfig
from var_core.routing.sites import find_sites
from var_core.systems.offload.experts import Offloaded
from var_core.systems.offload.store import MappedStore

def memory(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) * 1024

folder, keeps = Path(sys.argv[1]), sys.argv[2] == "keeps"
class Keeping(MappedStore):
    def copied(self, layer, expert):
        pass

torch.manual_seed(0)
store = (Keeping if keeps else MappedStore)(folder, 3)
config = MixtralConfig(vocab_size=97, hidden_size=1024, intermediate_size=8, num_hidden_layers=3,
    num_attention_heads=8, num_key_value_heads=2, num_local_experts=16, num_experts_per_tok=2)
model = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
sites = find_sites(model)
for site in sites:
    for name, part in store.layout(site.layer).items():
        empty = torch.empty((16, *part.shape), dtype=part.dtype, device="meta")
        setattr(site.experts, name, torch.nn.Parameter(empty, requires_grad=False))
ids = torch.randint(97, (1, 30))
with torch.inference_mode(), Offloaded(model, sites, store, 6, True, 2) as running:
    before = memory("VmRSS")
    for place in range(30):
        model(input_ids=ids[:, place : place + 1])
    counts = running.counts
expert = sum(part.bytes for part in store.layout(0).values())
print(json.dumps({"grown": memory("VmHWM") - before, "loads": counts.demand_loads, "expert": expert}))
"""


@pytest.mark.slow
def test_peak_memory_is_that_of_the_places(tmp_path):
    """600 MB of experts, in a process that never has more of them than fit into its places."""
    random = torch.Generator().manual_seed(0)
    for layer in range(3):
        shapes = {"gate_up_proj": (16, 2048, 1024), "down_proj": (16, 1024, 1024)}
        tensors = {name: torch.empty(shape).uniform_(-0.03, 0.03, generator=random) for name, shape in shapes.items()}
        save_file(tensors, layer_file(tmp_path, layer))
        del tensors
    grown = {}
    for how in ("gives back", "keeps"):
        command = [sys.executable, "-c", textwrap.dedent(_RUN), str(tmp_path), how]
        run = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=Path(__file__).parents[2])
        assert run.returncode == 0, run.stderr
        result = json.loads(run.stdout)
        assert result["expert"] == 12 << 20
        assert result["loads"] > 60  # of 48 experts: most of them, some more than once
        grown[how] = result["grown"] / result["expert"]
    # Six places, one expert being copied, and what the products need; the control maps what it has read for good.
    assert grown["gives back"] < 6 + 1 + 4
    assert grown["keeps"] > 30


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_pinned_memory_holds_the_same(tmp_path):
    subject = Subject.of("mixtral")
    write_experts(subject.sites, tmp_path)
    mapped = MappedStore(tmp_path, 3)
    pinned = PinnedStore(mapped, 3)
    for name, part in pinned.parts(1, 4).items():
        assert part.is_pinned()
        assert torch.equal(part, mapped.parts(1, 4)[name])
