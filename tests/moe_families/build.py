"""Building a tiny model of any family: random weights, routers far from uniform, selection biases not zero."""

import contextlib
import importlib
import inspect
from collections.abc import Iterator

import torch
import transformers
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_MAPPING

from moe_families.configs import VOCABULARY, tiny_config

_BIASES = ("correction_bias", "expert_bias", "gate_bias", "balancing_biases", "e_score_correction")
_SCALES = ("per_expert_scale", "global_scale")


def build_family(family: str, seed: int = 0) -> PreTrainedModel:
    """Build a tiny model of a family, in evaluation mode.

    Parameters
    ----------
    family : str
        A key of :data:`moe_families.configs.FAMILIES`.
    seed : int, optional
        Of the weights.
    """
    config = tiny_config(family)
    torch.manual_seed(seed)
    with _quiet():
        model = _model_class(type(config))(config).eval().requires_grad_(False)
    for path, module in model.named_modules():
        _randomise(path, module)
    return model


def tokens(sequences: int = 2, length: int = 24) -> torch.Tensor:
    """Token ids that are no special ones, [sequences, length]."""
    return torch.randint(3, VOCABULARY, (sequences, length), generator=torch.Generator().manual_seed(1))


def _model_class(config_class: type[PreTrainedConfig]) -> type[PreTrainedModel]:
    if config_class in MODEL_MAPPING:
        return MODEL_MAPPING[config_class]
    modeling = importlib.import_module(config_class.__module__.replace("configuration_", "modeling_"))
    return next(
        kind
        for name, kind in vars(modeling).items()
        if inspect.isclass(kind)
        and issubclass(kind, PreTrainedModel)
        and kind.config_class is config_class
        and not name.endswith("PreTrainedModel")
    )


def _randomise(path: str, module: nn.Module) -> None:
    """Make routers decide, biases matter and experts differ, whatever a family initialises them to."""
    parts = path.split(".")
    for name, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
        if not tensor.is_floating_point():
            if name == "tid2eid":  # hash routing: distinct experts for each token id
                tensor.copy_(torch.rand(len(tensor), 8).argsort(1)[:, : tensor.shape[1]])
        elif name in _SCALES:
            tensor.uniform_(0.5, 1.5)
        elif any(part in name for part in _BIASES) or "moe_statics" in parts:
            tensor.normal_(0, 0.2)
        elif any(part in ("gate", "router", "router_gate", "wg") for part in parts[-3:]) and tensor.ndim == 2:
            if tensor.shape[0] > 1:
                tensor.normal_(0, 1.0)
        elif "experts" in parts:
            tensor.normal_(0, 0.3)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    level = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(level)
