"""Completions of prompts by a causal language model, as code benchmarks want them."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from var_core.errors import VarError
from var_core.hypotheses.resampling import generator
from var_core.progress import Progress

STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
"""What ends the body of a function: the start of something else in the first column (Chen et al. 2021)."""

_TAIL_TOKENS = 16


@dataclass(frozen=True)
class GenerationSettings:
    """How completions are generated.

    Attributes
    ----------
    samples : int
        Completions of each prompt.
    temperature : float
        0: the likeliest token each time (greedy), of which one sample is all there is.
    top_p : float
        Sample from the likeliest tokens that have this probability together.
    max_new_tokens : int
    batch_size : int
        Completions at a time. Sampled completions depend on it, since a batch shares one stream of random numbers.
    seed : int
    """

    samples: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    max_new_tokens: int = 384
    batch_size: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("samples", "max_new_tokens", "batch_size"):
            if getattr(self, name) < 1:
                raise VarError(f"generation {name}: {getattr(self, name)} is below 1; raise it")
        if self.temperature < 0 or not 0 < self.top_p <= 1:
            raise VarError("generation temperature, top_p: need temperature >= 0 and 0 < top_p <= 1; change them")
        if self.samples > 1 and self.temperature == 0:
            raise VarError("generation samples: greedy samples are all the same; set temperature above 0, or samples 1")


def generate_completions(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    settings: GenerationSettings,
    inside: AbstractContextManager[Any] | None = None,
    description: str = "generate",
) -> list[list[str]]:
    """Complete every prompt, and cut each completion where the function ends.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        A causal language model with its head, in evaluation mode.
    tokenizer : transformers.PreTrainedTokenizerBase
        Its tokenizer.
    prompts : sequence of str
    settings : GenerationSettings
    inside : context manager, optional
        Entered once around all of the generation, for example a policy attached to the model.
    description : str, optional
        For the progress bar.

    Returns
    -------
    list of list of str
        ``settings.samples`` completions of each prompt.

    Raises
    ------
    VarError
        If a prompt leaves no room for ``max_new_tokens`` among the model's positions.
    """
    ids = [tokenizer(prompt)["input_ids"] for prompt in prompts]
    _check_room(model, ids, settings.max_new_tokens)
    wanted = [place for place in range(len(prompts)) for _ in range(settings.samples)]
    completions: list[list[str]] = [[] for _ in prompts]
    with Progress(len(wanted), "completion", description) as progress, inside or nullcontext(), torch.inference_mode():
        for start in range(0, len(wanted), settings.batch_size):
            places = wanted[start : start + settings.batch_size]
            texts = _batch(model, tokenizer, [ids[place] for place in places], settings, start)
            for place, text in zip(places, texts, strict=True):
                completions[place].append(cut(text))
            progress.advance(len(places))
    return completions


def cut(text: str) -> str:
    """Cut a completion before the first thing that is no longer the function's body."""
    ends = [text.find(stop) for stop in STOPS]
    return text[: min((end for end in ends if end >= 0), default=len(text))]


class _AfterFunction(StoppingCriteria):
    """Stops a row once something else than the function's body has begun in it."""

    def __init__(self, tokenizer: Any, prompt_tokens: int) -> None:
        self.tokenizer, self.prompt_tokens = tokenizer, prompt_tokens

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        start = max(self.prompt_tokens, input_ids.shape[1] - _TAIL_TOKENS)
        texts = _decode(self.tokenizer, input_ids[:, start:].tolist())
        done = [any(stop in text for stop in STOPS) for text in texts]
        return torch.tensor(done, device=input_ids.device)


def _batch(model: Any, tokenizer: Any, prompts: list[list[int]], settings: GenerationSettings, start: int) -> list[str]:
    """Complete one batch of prompts, padded on the left."""
    width = max(map(len, prompts))
    ends = model.generation_config.eos_token_id
    ends = tokenizer.eos_token_id if ends is None else ends
    pad = tokenizer.pad_token_id
    if pad is None:
        pad = ends[0] if isinstance(ends, list) else ends if ends is not None else 0
    padded = torch.tensor([[pad] * (width - len(ids)) + ids for ids in prompts])
    mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts])
    device = model.get_input_embeddings().weight.device
    sampling = {"temperature": settings.temperature, "top_p": settings.top_p, "top_k": 0}
    how = GenerationConfig(
        max_new_tokens=settings.max_new_tokens,
        do_sample=settings.temperature > 0,
        num_beams=1,
        repetition_penalty=1.0,
        pad_token_id=pad,
        eos_token_id=ends,
        **(sampling if settings.temperature > 0 else {}),
    )
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(int(generator(settings.seed, "humaneval completions", start).integers(2**63)))
        rows = model.generate(
            padded.to(device),
            attention_mask=mask.to(device),
            generation_config=how,
            stopping_criteria=StoppingCriteriaList([_AfterFunction(tokenizer, width)]),
        )
    return _completions(tokenizer, prompts, rows[:, width:].tolist())


def _completions(tokenizer: Any, prompts: list[list[int]], added: list[list[int]]) -> list[str]:
    """Text of the new tokens.

    It is what the text of all tokens has more than that of the prompt, since some tokenizers drop the white space at
    the start of what they decode, and a body without its indentation is another program.
    """
    before = _decode(tokenizer, prompts)
    whole = _decode(tokenizer, [prompt + more for prompt, more in zip(prompts, added, strict=True)])
    alone = _decode(tokenizer, added)
    return [
        full[len(start) :] if full.startswith(start) else rest
        for start, full, rest in zip(before, whole, alone, strict=True)
    ]


def _decode(tokenizer: Any, rows: list[list[int]]) -> list[str]:
    return [tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False) for ids in rows]


def _check_room(model: Any, ids: list[list[int]], new_tokens: int) -> None:
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    longest = max(map(len, ids), default=0)
    if positions is not None and longest + new_tokens > positions:
        raise VarError(
            f"generation max_new_tokens: {new_tokens} after a prompt of {longest} tokens are more than the model's "
            f"{positions} positions; lower max_new_tokens, or leave out long prompts"
        )
