import numpy as np
import pytest
import torch

from moe_models import VOCABULARY, build_model
from var_core.benchmarks.capture import CAPTURE, NNSIGHT, NNSIGHT_BASE, ROUTER_LOGITS, Contenders, measure
from var_core.benchmarks.subject import Input, Subject, demo_subject
from var_core.benchmarks.tracing import same_weights
from var_core.errors import VarError
from var_core.routing.recorder import Recorder
from var_core.routing.sites import find_sites

CPU = torch.device("cpu")


def subject(family="mixtral"):
    random = np.random.default_rng(0)
    ids = random.integers(VOCABULARY, size=(3, 2, 24))
    document = np.cumsum(random.random((3, 2, 24)) < 0.1, axis=2)
    inputs = tuple(Input.of(*each, CPU) for each in zip(ids, document, strict=True))
    return Subject(build_model(family), inputs, {"model": family})


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe"])
def test_all_ways_are_checked_to_give_the_same_statistics(family):
    pytest.importorskip("nnsight", reason="nnsight comes with the extra bench")
    contenders = Contenders(subject(family))
    contenders.check()
    assert contenders.missing == {}
    assert set(contenders.accumulators) == {CAPTURE, ROUTER_LOGITS, NNSIGHT, NNSIGHT_BASE}


def test_a_way_that_routes_otherwise_is_refused():
    contenders = Contenders(subject())
    positions_forgotten = contenders._ways[ROUTER_LOGITS]

    def other(given):
        return positions_forgotten(Input(given.token_ids, given.document, given.positions * 0))

    contenders._ways[ROUTER_LOGITS] = other
    with pytest.raises(VarError, match=ROUTER_LOGITS):
        contenders.check()


def test_a_measurement_has_every_ratio_and_says_what_did_not_run(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "nnsight", None)  # as if it were not installed
    section = measure(subject(), rounds=2)
    figures = section.figures
    assert figures["nnsight_over_causal_lm_forward"].startswith("not run: ModuleNotFoundError")
    assert figures["capture_over_base_forward"].n == 2
    assert figures["capture_over_base_forward"].against == "base_forward"
    assert set(figures) >= {
        "capture_over_causal_lm_forward", "router_logits_over_causal_lm_forward", "capture_rate",
    }  # fmt: skip


def test_hooks_are_gone_after_a_run_and_a_tracer_leaves_the_model_alone():
    given = subject()
    Contenders(given).check()
    modules = list(given.causal.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in modules)
    assert not any("forward" in vars(module) for module in modules)


def test_a_copy_of_a_model_shares_its_weights_but_not_its_modules():
    model = build_model("mixtral")
    twin = same_weights(model)
    assert all(a is b for a, b in zip(model.parameters(), twin.parameters(), strict=True))
    assert not set(map(id, model.modules())) & set(map(id, twin.modules()))
    with (
        Recorder(find_sites(model)),
        pytest.raises(VarError, match="has made a decision"),
        Recorder(find_sites(twin)) as recorder,
    ):
        model(input_ids=torch.tensor([[1, 2]]))
        recorder.take()


def test_without_results_the_demo_model_s_shape_reads_real_text(tmp_path):
    given = demo_subject(tmp_path / "results", batches=4, device=CPU)
    assert given.about["model"] == "the demo model's shape with random weights"
    assert given.vocabulary == 4096 and [tuple(x.token_ids.shape) for x in given.inputs] == [(8, 256)] * 4
    ids = torch.cat([x.token_ids for x in given.inputs])
    assert len(ids.unique()) > 300 and int(ids.max()) < 4096
    starts = torch.cat([x.positions for x in given.inputs]) == 0
    assert starts[:, 0].all() and starts.sum() > len(starts)
