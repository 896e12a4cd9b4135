"""Training a small Mixtral from scratch: data order, loss, schedule, and checkpoints to go on from."""

import contextlib
import logging
import math
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch.nn import functional
from transformers import MixtralConfig, MixtralForCausalLM

from var_core.config.models import DemoModel
from var_core.corpus.shards import position_ids
from var_core.files import written_aside
from var_core.models.packed import Sequences
from var_core.models.perplexity import predicted_tokens

_LOGGER = logging.getLogger(__name__)
CHECKPOINT_STEPS = 50
# At this width transformers' default of 0.02, meant for models 30 times wider, makes the first hundred steps slow.
_INITIAL_DEVIATION = 0.06
_WARM_UP_SHARE = 1 / 20
_FINAL_RATE = 1 / 10
_WEIGHT_DECAY = 0.1
_BETAS = (0.9, 0.95)
_MAX_GRADIENT_NORM = 1.0
# Logits of a whole batch do not fit into what the allocator keeps for reuse; taken in parts a step is a fifth faster.
_LOGIT_ROWS = 1024
_NOT_PREDICTED = -100


class TrainingStep(NamedTuple):
    """One row of the training curve.

    Attributes
    ----------
    step : int
        From 1.
    tokens : int
        Tokens seen so far.
    loss : float
        Mean -ln p of the step's predicted tokens before its update, in nats a token.
    load_balancing_loss : float
        Unweighted; k where all experts are used alike, up to E where all tokens choose the same.
    learning_rate : float
        Of this step.
    """

    step: int
    tokens: int
    loss: float
    load_balancing_loss: float
    learning_rate: float


def build_model(config: DemoModel, vocabulary: int, boundary_id: int | None) -> MixtralForCausalLM:
    """A Mixtral with random weights that depend on the seed only.

    Parameters
    ----------
    config : DemoModel
        Its size and seed.
    vocabulary : int
        Token ids.
    boundary_id : int or None
        The token that starts a document, and ends a generated one; None if there is none.
    """
    shape = MixtralConfig(
        vocab_size=vocabulary,
        hidden_size=config.hidden,
        intermediate_size=config.intermediate,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.heads,
        num_local_experts=config.experts,
        num_experts_per_tok=config.top_k,
        max_position_embeddings=config.max_position,
        initializer_range=_INITIAL_DEVIATION,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        router_aux_loss_coef=config.load_balancing,
        bos_token_id=boundary_id,
        eos_token_id=boundary_id,
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return MixtralForCausalLM(shape)


def learning_rate(step: int, config: DemoModel) -> float:
    """Rate of a step (from 0): linear warm-up over the first twentieth, then a cosine down to a tenth of the peak."""
    warm_up = max(1, round(config.steps * _WARM_UP_SHARE))
    if step < warm_up:
        return config.learning_rate * (step + 1) / warm_up
    done = (step - warm_up) / max(1, config.steps - 1 - warm_up)
    return config.learning_rate * (_FINAL_RATE + (1 - _FINAL_RATE) * (1 + math.cos(math.pi * done)) / 2)


def batch_numbers(step: int, sequences: int, config: DemoModel) -> npt.NDArray[np.int64]:
    """Which sequences a step (from 0) trains on: each epoch takes all of them once, in an order of its own.

    A function of step and seed alone, so that a resumed training goes on with the data that come next.
    """
    places = np.arange(step * config.batch_sequences, (step + 1) * config.batch_sequences)
    epochs, within = np.divmod(places, sequences)
    orders = {epoch: _epoch_order(int(epoch), sequences, config.seed) for epoch in np.unique(epochs)}
    return np.array([orders[epoch][place] for epoch, place in zip(epochs, within, strict=True)], dtype=np.int64)


@lru_cache(maxsize=2)
def _epoch_order(epoch: int, sequences: int, seed: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng([seed, epoch]).permutation(sequences)


def load_balancing_loss(router_logits: tuple[torch.Tensor, ...], top_k: int) -> torch.Tensor:
    """Load-balancing loss, layer by layer: mean over layers of E sum_e f_e P_e.

    f_e is the number of choices of expert e a token (they sum to k) and P_e its mean router probability. Taken layer
    by layer, because over all layers pooled (as transformers does for Mixtral) an expert overloaded in one layer is
    made up for by its namesake in another.

    Parameters
    ----------
    router_logits : tuple of torch.Tensor
        Logits of each layer, [N, E].
    top_k : int
        Experts chosen for a token.

    References
    ----------
    Fedus, Zoph and Shazeer 2022, "Switch Transformers", equations 4 to 6.
    """
    losses = []
    for logits in router_logits:
        probabilities = logits.float().softmax(-1)
        tokens, experts = probabilities.shape
        chosen = torch.bincount(probabilities.topk(top_k, -1).indices.flatten(), minlength=experts)
        losses.append(experts * (chosen / tokens * probabilities.mean(0)).sum())
    return torch.stack(losses).mean()


class Training:
    """A training under way: AdamW on `model`, in place, going on from a checkpoint if there is one.

    The same seed gives the same weights, bit for bit, on the same machine with the same number of threads, whether or
    not the training was interrupted in between.

    Parameters
    ----------
    model : MixtralForCausalLM
        With its initial weights.
    sequences : Sequences
        What to train on.
    config : DemoModel
        Steps, batch size, learning rate, seed.
    checkpoint : Path
        Where weights and optimiser are kept every ``CHECKPOINT_STEPS`` steps.
    key : str
        Digest of everything that the result depends on; a checkpoint with another key is not used.

    Attributes
    ----------
    curve : list of TrainingStep
        The steps done, from the first on.
    """

    def __init__(
        self, model: MixtralForCausalLM, sequences: Sequences, config: DemoModel, checkpoint: Path, key: str
    ) -> None:
        self._model, self._sequences, self._config = model, sequences, config
        self._checkpoint, self._key = checkpoint, key
        decayed = [weight for weight in model.parameters() if weight.ndim >= 2]
        others = [weight for weight in model.parameters() if weight.ndim < 2]
        groups = [{"params": decayed, "weight_decay": _WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]
        self._optimiser = torch.optim.AdamW(groups, lr=config.learning_rate, betas=_BETAS, fused=True)
        self.curve = self._resume()

    def run(self, report: Callable[[TrainingStep], None] | None = None) -> None:
        """Do the steps that are left; `report` is called after each of them."""
        self._model.train()
        with _deterministic():
            for step in range(len(self.curve), self._config.steps):
                self.curve.append(self._step(step))
                if (step + 1) % CHECKPOINT_STEPS == 0:
                    self._save()
                if report is not None:
                    report(self.curve[-1])
        self._model.eval()

    def _step(self, step: int) -> TrainingStep:
        rate = learning_rate(step, self._config)
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        input_ids, document = self._sequences.rows(batch_numbers(step, len(self._sequences), self._config))
        loss, balance = add_gradients(self._model, input_ids, document, self._config)
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), _MAX_GRADIENT_NORM)
        self._optimiser.step()
        self._optimiser.zero_grad()
        return TrainingStep(step + 1, (step + 1) * input_ids.size, loss, balance, rate)

    def _save(self) -> None:
        tensors = {"curve": torch.tensor(self.curve, dtype=torch.float64)}
        for name, weight in self._model.named_parameters():
            state = self._optimiser.state[weight]
            tensors[f"weight.{name}"] = weight.detach()
            tensors[f"mean.{name}"], tensors[f"square.{name}"] = state["exp_avg"], state["exp_avg_sq"]
        with written_aside(self._checkpoint) as aside:
            safetensors.torch.save_file(tensors, aside, metadata={"key": self._key})

    def _resume(self) -> list[TrainingStep]:
        """Load weights and optimiser from a checkpoint of this training, and return its curve; else return no curve."""
        if not self._checkpoint.exists():
            return []
        tensors = _read_checkpoint(self._checkpoint, self._key)
        if tensors is None:
            _LOGGER.warning("%s is of another training or damaged; training starts anew", self._checkpoint)
            return []
        curve = [TrainingStep(int(row[0]), int(row[1]), *row[2:]) for row in tensors["curve"].tolist()]
        with torch.no_grad():
            for name, weight in self._model.named_parameters():
                weight.copy_(tensors[f"weight.{name}"])
                self._optimiser.state[weight] = {
                    "step": torch.tensor(float(len(curve))),
                    "exp_avg": tensors[f"mean.{name}"],
                    "exp_avg_sq": tensors[f"square.{name}"],
                }
        _LOGGER.info("training goes on after step %d", len(curve))
        return curve


def _read_checkpoint(path: Path, key: str) -> dict[str, torch.Tensor] | None:
    """Tensors of a checkpoint, or None if it is damaged or has another key."""
    try:
        with safe_open(path, "pt") as file:
            if (file.metadata() or {}).get("key") != key:
                return None
        tensors: dict[str, torch.Tensor] = safetensors.torch.load_file(path)
        return tensors
    except (SafetensorError, OSError):
        return None


def add_gradients(
    model: MixtralForCausalLM, input_ids: npt.NDArray[np.int32], document: npt.NDArray[np.int32], config: DemoModel
) -> tuple[float, float]:
    """Add the gradients of one batch to the model's.

    The same as ``backward`` of cross-entropy plus weighted load-balancing loss, with less memory: only a part of the
    logits is there at a time.

    Parameters
    ----------
    model : MixtralForCausalLM
        The model.
    input_ids, document : numpy.ndarray
        Token ids and document of every token, int32 [B, T].
    config : DemoModel
        Experts chosen for a token, weight of the load-balancing loss.

    Returns
    -------
    loss : float
        Mean -ln p of the predicted tokens, in nats.
    balance : float
        Load-balancing loss, not weighted.
    """
    tokens = torch.from_numpy(input_ids.astype(np.int64))
    targets = torch.full_like(tokens, _NOT_PREDICTED)
    predicted = torch.from_numpy(predicted_tokens(document))
    targets[:, :-1] = tokens[:, 1:].where(predicted[:, 1:], _NOT_PREDICTED)
    targets = targets.flatten()
    number = int(predicted.sum())
    # Without a cache, because with one transformers does not look for restarting positions.
    positions = torch.from_numpy(position_ids(document))
    outputs = model.model(input_ids=tokens, position_ids=positions, use_cache=False, output_router_logits=True)
    states = outputs.last_hidden_state.flatten(0, 1)
    leaf = states.detach().requires_grad_()
    loss = 0.0
    for start in range(0, len(targets), _LOGIT_ROWS):
        rows = slice(start, start + _LOGIT_ROWS)
        part = functional.cross_entropy(
            model.lm_head(leaf[rows]), targets[rows], ignore_index=_NOT_PREDICTED, reduction="sum"
        )
        (part / max(number, 1)).backward()
        loss += part.item()
    balance = load_balancing_loss(outputs.router_logits, config.top_k)
    torch.autograd.backward([states, config.load_balancing * balance], [leaf.grad, None])
    return loss / max(number, 1), balance.item()


@contextlib.contextmanager
def _deterministic() -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
