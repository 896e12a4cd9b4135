"""Small real models with their layers, and tables of a text's own decisions."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from moe_models import VOCABULARY, build_model
from var_core.policy.fitting import ExpertSums, fit_entries
from var_core.policy.runtime import RuntimePolicy
from var_core.policy.settings import PolicySettings
from var_core.policy.tables import PolicyTables, assemble
from var_core.policy.weighting import find_weighting
from var_core.routing.batch import RoutedBatch, RouterLayout
from var_core.routing.recorder import Recorder
from var_core.routing.scoring import identify_layout
from var_core.routing.sites import Site, find_sites


@dataclass(frozen=True)
class Subject:
    """A model, its layers, and the shape of their decisions."""

    model: Any
    sites: tuple[Site, ...]
    layout: RouterLayout

    @classmethod
    def of(cls, family: str) -> "Subject":
        """A small model of a family."""
        return cls.of_model(build_model(family))

    @classmethod
    def of_config(cls, config: PreTrainedConfig) -> "Subject":
        """A model of a configuration, with random weights."""
        torch.manual_seed(0)
        return cls.of_model(AutoModelForCausalLM.from_config(config).eval().requires_grad_(False))

    @classmethod
    def of_model(cls, model: PreTrainedModel) -> "Subject":
        """A model with its layers."""
        sites = find_sites(model)
        random = torch.Generator().manual_seed(1)
        ids = torch.randint(VOCABULARY, (4, 64), generator=random)
        with Recorder(sites) as recorder, torch.inference_mode():
            model(ids)
            layout = identify_layout(sites, recorder.take()).layout
        return cls(model, sites, layout)

    def decisions(self, ids: torch.Tensor, **keywords: Any) -> RoutedBatch:
        """The model's own, on a text."""
        with Recorder(self.sites) as recorder, torch.inference_mode():
            self.model(ids, **keywords)
            return recorder.take()

    def table(self, keys: torch.Tensor, batch: RoutedBatch, vocabulary: int = VOCABULARY) -> PolicyTables:
        """Tables by any key of the tokens, of which the fast path takes nothing."""
        width, k = self.layout.experts, self.layout.top_k
        tokens, everything = [], []
        for layer in range(len(self.layout)):
            arrays = (batch.experts[layer].numpy(), batch.weights[layer].double().numpy())
            sums = arrays[1].sum(axis=1)
            whole = float(sums.mean()) if np.ptp(sums) < 1e-4 else None
            by_key = ExpertSums.of_decisions(keys.flatten().numpy(), *arrays, width)
            for_all = ExpertSums.of_decisions(keys.flatten().numpy() * 0, *arrays, width)
            tokens.append(fit_entries(by_key, width, k, whole))
            everything.append(fit_entries(for_all, width, k, whole))
        return assemble(vocabulary, width, tokens, everything)

    def policy(self, tables: PolicyTables, settings: PolicySettings = PolicySettings(), **more: Any) -> RuntimePolicy:
        """A policy for the model."""
        if settings.weights == "live":
            random = torch.Generator().manual_seed(2)
            batch = self.decisions(torch.randint(VOCABULARY, (2, 64), generator=random))
            more["weightings"] = {s.layer: find_weighting(s.layer, self.layout, batch) for s in self.sites}
        return RuntimePolicy(self.model, self.sites, self.layout, tables, settings, **more)

    def logits(self, ids: torch.Tensor, **keywords: Any) -> torch.Tensor:
        """Of the whole model."""
        with torch.inference_mode():
            return self.model(ids, **keywords).logits
