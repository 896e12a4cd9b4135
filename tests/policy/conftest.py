"""Models that policies run in."""

import pytest
import torch

from policy_subject import Subject


@pytest.fixture(scope="session", params=["mixtral", "olmoe", "qwen2_moe", "qwen3_moe"])
def subject(request: pytest.FixtureRequest) -> Subject:
    """Each family in turn."""
    return Subject.of(request.param)


@pytest.fixture(scope="session")
def mixtral() -> Subject:
    """One of them."""
    return Subject.of("mixtral")


@pytest.fixture
def ids() -> torch.Tensor:
    """Two rows of random text in which contexts come again."""
    random = torch.Generator().manual_seed(5)
    part = torch.randint(12, (2, 20), generator=random)
    return torch.cat((part, part[:, 4:14], torch.randint(12, (2, 10), generator=random)), dim=1)
