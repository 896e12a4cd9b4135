import re
from pathlib import Path

import numpy as np
import pytest
import torch

from moe_models import VOCABULARY, build_model
from var_core.benchmarks import pages, policy
from var_core.benchmarks.document import put
from var_core.benchmarks.policy_models import TABLE, VARIANTS, Recorded, RoutersAlone, WholeModel
from var_core.benchmarks.subject import Input, Subject
from var_core.errors import VarError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module", params=["mixtral", "qwen3_moe"])
def subject(request):
    random = np.random.default_rng(0)
    # Contexts come again, so that a cache has something to do.
    ids = np.tile(random.integers(VOCABULARY, size=(3, 8, 12)), (1, 1, 2))
    inputs = tuple(Input.of(each, each * 0, torch.device("cpu")) for each in ids)
    about = {"model": request.param, "parameters": 1, "dtype": "float32", "text": "random"}
    return Subject(build_model(request.param), inputs, about)


def test_every_policy_does_what_it_is_timed_as(subject):
    recorded = Recorded.of(subject)
    policy.check(subject, recorded)
    tables = recorded.tables
    tables.usable[:, 0:VOCABULARY:3] = False
    with pytest.raises(VarError, match=TABLE):
        policy.check(subject, recorded)


def test_routers_alone_decide_as_in_the_whole_model(subject):
    recorded = Recorded.of(subject)
    counts = []
    for kind in (WholeModel, RoutersAlone):
        model = kind(subject, recorded.hidden) if kind is RoutersAlone else kind(subject)
        with recorded.policy(model.model, "table_cache") as inside:
            model.prefill(subject.inputs[-1])
            model.decode(subject.inputs[-1].token_ids[:2])
        counts.append(inside.counts.by_way)
    # The table's decisions are the text's own only in the mean, so later layers see other states: ways alone compare.
    assert counts[0].sum() == counts[1].sum() > 0
    assert torch.equal(counts[0][:, 1], counts[1][:, 1])


def test_a_measurement_has_every_ratio_and_goes_onto_the_page(subject, tmp_path):
    section = policy.measure(subject, rounds=2)
    assert len(section.figures) == len(policy.KINDS) * (len(VARIANTS) + 2)
    assert section.figures["policy_decode_8_table_cache_over_plain"].n == 2
    assert section.figures["policy_prefill_empty_over_plain"].n == 6
    for name in (Path("docs/templates/benchmarks.md.j2"), pages.NUMBERS):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    put(tmp_path / pages.NUMBERS, section)
    put(tmp_path / pages.NUMBERS, policy.not_run_section("gpu_", "no GPU"))
    text = pages.render(tmp_path)
    (row,) = (line for line in text.splitlines() if line.startswith("| table_cache |"))
    assert len(re.findall(r"[0-9.]+ [(][0-9.]+ to [0-9.]+[)] [|]", row)) == len(policy.KINDS)
    assert "This was not run: no GPU." in text.partition("### The same on a GPU")[2]
    # One that did not run is no reason to call the others too few.
    assert "rounds" not in policy.not_run_section("gpu_", "no GPU").about
