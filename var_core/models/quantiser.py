"""The part of quantising that transformers calls while it loads: every expert weight is packed as soon as it is read.

So a model never lies in memory unpacked, and accelerate places it by its packed size.
"""

from typing import Any

import torch
from torch import nn
from transformers.core_model_loading import ConversionOps
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from var_core.models.quantised import CODECS, Codec, pack_experts

_METHOD = "var_experts"


@register_quantization_config(_METHOD)
class ExpertsQuantisation(QuantizationConfigMixin):
    """What to give to ``from_pretrained`` as ``quantization_config``.

    Parameters
    ----------
    quantisation : str
        A key of :data:`var_core.models.quantised.CODECS`.
    """

    def __init__(self, quantisation: str) -> None:
        self.quant_method = _METHOD
        self.quantisation = quantisation


@register_quantizer(_METHOD)
class ExpertsQuantiser(HfQuantizer):
    """Packs the weights of experts, and nothing else."""

    def __init__(self, quantization_config: ExpertsQuantisation, **kwargs: Any) -> None:
        super().__init__(quantization_config, **kwargs)
        self.codec: Codec = CODECS[quantization_config.quantisation]
        self.names: set[str] = set()

    def validate_environment(self, *args: Any, **kwargs: Any) -> None:
        """Refuse what would be loaded unpacked, or not at all."""
        device_map = kwargs.get("device_map")
        if isinstance(device_map, dict) and "disk" in device_map.values():
            raise ValueError(
                "quantised experts cannot be offloaded to disk; raise max_memory, or set quantisation to none"
            )

    def _process_model_before_weight_loading(self, model: nn.Module, **kwargs: Any) -> nn.Module:
        self.names = pack_experts(model, self.codec)
        return model

    def param_needs_quantization(self, model: nn.Module, param_name: str, **kwargs: Any) -> bool:
        """Whether a parameter is an expert's weight."""
        return param_name in self.names

    @property
    def quantized_element_size(self) -> float:
        """Bytes a weight."""
        return self.codec.bytes_per_weight

    def get_quantize_ops(self) -> "_Pack":
        """What packs a weight."""
        return _Pack(self)

    def is_serializable(self) -> bool:
        """Never saved: it is made anew from the whole weights each time."""
        return False

    @property
    def is_trainable(self) -> bool:
        """Only for looking on."""
        return False


class _Pack(ConversionOps):
    def __init__(self, quantiser: ExpertsQuantiser) -> None:
        self._quantiser = quantiser

    def convert(self, input_dict: dict[str, Any], *args: Any, model: nn.Module, **kwargs: Any) -> dict[str, Any]:
        """Pack the experts' weights among some tensors that were read together, by full name."""
        result: dict[str, torch.Tensor] = {}
        for name, value in input_dict.items():
            weight = value[0] if isinstance(value, list) else value
            if self._quantiser.param_needs_quantization(model, name):
                wanted = model.get_parameter(name).dtype
                result[name], result[f"{name}_scale"] = self._quantiser.codec.encode(weight.to(wanted))
            else:
                result[name] = weight
        return result
