"""What a policy's decisions cost: beside the routers they replace, and in whole passes and decoding."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

from var_core.benchmarks.document import Section, not_run
from var_core.benchmarks.environment import environment
from var_core.benchmarks.policy_models import (
    AUDIT_ALL,
    CACHE,
    EMPTY,
    LIVE,
    TABLE,
    VARIANTS,
    Recorded,
    RoutersAlone,
    WholeModel,
)
from var_core.benchmarks.subject import LENGTH, SEQUENCES, Subject, demo_subject
from var_core.benchmarks.timing import Contender, Figure, Times, time_rounds
from var_core.errors import VarError

PLAIN, AGAIN = "plain", "plain_again"
KINDS = {
    "gate": f"routers alone, {SEQUENCES} x {LENGTH} tokens a pass",
    "gate_decode_1": "routers alone, one token a pass",
    "gate_decode_8": "routers alone, eight sequences, one token of each a pass",
    "prefill": f"whole model, {SEQUENCES} x {LENGTH} tokens a pass",
    "decode_1": "whole model with its key-value cache, one token a pass",
    "decode_8": "whole model with its key-value cache, eight sequences, one token of each a pass",
}
_BATCHES = 4
_WHOLE = ("gate", "prefill")
_ROUNDS_OF_ONE = 3
"""Rounds of whole sequences are one pass each, and the difference to be seen is a few hundredths."""
_STEPS = 64
"""Tokens that are decoded in a round, from the first of a sequence on."""


def measure(subject: Subject, rounds: int, prefix: str = "") -> Section:
    """Time a model under each policy relative to the model as it is, after checking that policies do what they say.

    Parameters
    ----------
    subject : Subject
        Model and text.
    rounds : int
        Rounds that count.
    prefix : str, optional
        Put before every key.
    """
    device = subject.causal.device
    with torch.inference_mode():
        recorded = Recorded.of(subject)
        check(subject, recorded)
        figures: dict[str, Figure | str] = {}
        for kind in KINDS:
            times = _times(subject, recorded, kind, rounds * _ROUNDS_OF_ONE if kind in _WHOLE else rounds, device)
            figures |= {_key(prefix, kind, of): times.ratio(of, PLAIN) for of in (AGAIN, *VARIANTS)}
            passes = 1 if kind in _WHOLE else _STEPS
            figures[_key(prefix, kind, None)] = times.rate(PLAIN, passes, "passes a second")
    return Section(f"{prefix}policy", environment(device), subject.about | _about() | {"rounds": rounds}, figures)


def _key(prefix: str, kind: str, of: str | None) -> str:
    return f"{prefix}policy_{kind}_{PLAIN}_rate" if of is None else f"{prefix}policy_{kind}_{of}_over_{PLAIN}"


def _about() -> dict[str, Any]:
    return {
        "sequences": SEQUENCES,
        "length": LENGTH,
        "steps": _STEPS,
        "kinds": list(KINDS.items()),
        "variants": list(VARIANTS.items()),
    }


@contextmanager
def _models(subject: Subject, recorded: Recorded, alone: bool) -> Iterator[Mapping[str, RoutersAlone | WholeModel]]:
    """A model for each contender, with its policy in it: entering one is not part of the time of a pass."""
    names = (PLAIN, AGAIN, *VARIANTS)
    models = {name: RoutersAlone(subject, recorded.hidden) if alone else WholeModel(subject) for name in names}
    with ExitStack() as policies:
        for name in VARIANTS:
            policies.enter_context(recorded.policy(models[name].model, name))
        yield models


def _times(subject: Subject, recorded: Recorded, kind: str, rounds: int, device: torch.device) -> Times:
    # Hidden states were recorded of one input only.
    alone = kind.startswith("gate")
    inputs = subject.inputs[-1:] if alone else subject.inputs
    sequences = int(kind.rpartition("_")[2]) if "decode" in kind else None

    def work(model: RoutersAlone | WholeModel) -> Contender:
        def run(number: int) -> None:
            given = inputs[number % len(inputs)]
            if sequences is None:
                model.prefill(given)
            else:
                model.decode(given.token_ids[:sequences, :_STEPS])

        return run

    with _models(subject, recorded, alone) as models:
        return time_rounds({name: work(model) for name, model in models.items()}, rounds, device)


def check(subject: Subject, recorded: Recorded) -> None:
    """Run every policy once, and look that its decisions come about as they should.

    Raises
    ------
    VarError
        If a policy is not what it is timed as.
    """
    routed = {TABLE: 0, LIVE: 1, AUDIT_ALL: 1}
    plain = WholeModel(subject).prefill(subject.inputs[0])
    for variant in VARIANTS:
        model = WholeModel(subject)
        with recorded.policy(model.model, variant) as policy:
            logits = model.prefill(subject.inputs[0])
        learned, fast, cached = policy.counts.by_way.sum(dim=0).tolist()
        if variant == EMPTY:
            right = fast == cached == 0 and torch.equal(logits, plain)
        elif variant == CACHE:
            right = min(learned, fast, cached) > 0
        else:
            right = learned == cached == 0 < fast
            right &= variant not in routed or sum(policy.counts.evaluated) == routed[variant] * fast
        if not right:
            raise VarError(f"benchmark policy: {variant} decided {learned} learned, {fast} fast and {cached} cached")


def policy_section(results: Path, rounds: int) -> Section:
    """The demo model on the CPU."""
    return measure(demo_subject(results, _BATCHES, torch.device("cpu")), rounds)


def not_run_section(prefix: str, reason: str) -> Section:
    """What is written where the measurement cannot be made."""
    keys = [_key(prefix, kind, of) for kind in KINDS for of in (AGAIN, *VARIANTS, None)]
    figures: dict[str, Figure | str] = dict.fromkeys(keys, not_run(reason))
    return Section(f"{prefix}policy", environment(torch.device("cpu")), _about(), figures)
