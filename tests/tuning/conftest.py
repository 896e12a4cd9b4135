"""Models that policies run in."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from policy_subject import Subject
from policy_traces import Everything, write_trace
from var_core.policy.settings import PolicySettings
from var_core.tuning.prepared import PreparedTrace


@pytest.fixture(scope="session", params=["mixtral", "olmoe", "qwen2_moe", "qwen3_moe"])
def subject(request: pytest.FixtureRequest) -> Subject:
    """Each family in turn."""
    return Subject.of(request.param)


@pytest.fixture(scope="session")
def mixtral() -> Subject:
    """One of them."""
    return Subject.of("mixtral")


@pytest.fixture(scope="session")
def calibrated(mixtral: Subject, tmp_path_factory: pytest.TempPathFactory) -> tuple[PreparedTrace, str]:
    """A trace with tables whose rows promise agreements of all kinds, and their name."""
    random = torch.Generator().manual_seed(0)
    ids, other = (torch.randint(30, (12, 40), generator=random) for _ in range(2))
    tables = mixtral.table(other, mixtral.decisions(other))
    agreement = torch.rand(tables.present.shape, generator=random).masked_fill(~tables.present, float("nan"))
    everything = Everything()
    with mixtral.policy(
        replace(tables, usable=torch.zeros_like(tables.usable)), PolicySettings(), observers=[everything]
    ):
        mixtral.logits(ids)
    document = np.repeat(np.arange(12)[:, None], 40, axis=1)
    path = tmp_path_factory.mktemp("calibrated") / "t.parquet"
    traces = write_trace(path, ids, document, everything.records, mixtral.layout.experts)
    return PreparedTrace(traces, mixtral.layout, {"token": replace(tables, agreement=agreement)}, True), "token"
