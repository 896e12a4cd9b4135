"""How long forward passes take under a policy beside those of the plain model, interleaved in one run."""

import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from var_core.corpus.shards import position_ids
from var_core.evaluation.arms import Subject
from var_core.evaluation.stage import Sources
from var_core.evaluation.text import Text
from var_core.files import write_json
from var_core.policy.runtime import RuntimePolicy
from var_core.policy.settings import PolicySettings
from var_core.policy.tables import PolicyTables

ROUNDS = 15


@dataclass(frozen=True)
class Speed:
    """Time of the plain model's forward pass over that under the policy: above 1, the policy is faster.

    Attributes
    ----------
    median, low, high : float
        Of the rounds' ratios; low and high are their quartiles.
    rounds : int
    device : str
    """

    median: float
    low: float
    high: float
    rounds: int
    device: str


def measure_speed(
    subject: Subject, text: Text, tables: PolicyTables, settings: PolicySettings, rounds: int = ROUNDS
) -> Speed:
    """Time one batch with and without a policy, in turn; the order changes each round, and the first is for warmth.

    Parameters
    ----------
    subject : Subject
    text : Text
        Its first batch is run.
    tables, settings
        The policy; nothing observes it.
    rounds : int, optional
    """
    batch = text.rows(slice(0, text.batch_sequences))
    device = subject.model.get_input_embeddings().weight.device
    tokens = torch.from_numpy(batch.input_ids.astype(np.int64)).to(device)
    positions = torch.from_numpy(position_ids(batch.document)).to(device) if text.isolate_documents else None
    policy = RuntimePolicy(subject.model, subject.sites, subject.layout, tables, settings, subject.weightings)
    ratios = []
    for number in range(rounds + 1):
        seconds = {}
        for name in ("plain", "policy")[:: 1 if number % 2 else -1]:
            inside: AbstractContextManager[Any] = policy if name == "policy" else nullcontext()
            with inside, torch.inference_mode():
                _wait(device)
                start = time.perf_counter()
                subject.model(input_ids=tokens, position_ids=positions, use_cache=False)
                _wait(device)
                seconds[name] = time.perf_counter() - start
        if number:
            ratios.append(seconds["plain"] / seconds["policy"])
    low, median, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return Speed(float(median), float(low), float(high), rounds, name)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def time_policy(sources: Sources, output: Path) -> None:
    """Time the configured policy and write what came out."""
    policy = sources.load_policy()
    text, subject = sources.text(), sources.subject(policy)
    write_json(output, asdict(measure_speed(subject, text, policy.tables, policy.settings)))
