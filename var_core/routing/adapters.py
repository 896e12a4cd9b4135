"""Readers for the four families of transformers that break the contract; their decisions are captured, not forced."""

from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from var_core.routing.readers import Call, Decision, Parameter, Reader, rows

if TYPE_CHECKING:
    from var_core.routing.sites import Site


class Llama4Reader(Reader):
    """llama4: all experts run on all tokens, each on its input times a score, which is 0 for those not chosen."""

    unforceable = "all its experts run on every token, scaled at their input; there is no decision to replace"

    def decode(self, site: "Site", given: tuple[torch.Tensor, ...], output: Any) -> Decision:
        """Take the chosen from the scores [T, E]."""
        scores, logits = output
        weights, experts = scores.detach().topk(site.router.top_k, dim=-1)
        return Decision(logits.detach(), experts, weights)

    def recombine(
        self, site: "Site", decision: Decision, router: Call, checked: Call
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Run the experts once a slot on an input that is 0 but for that slot's expert and token."""
        hidden = rows(router.arguments[0])
        token = torch.arange(len(hidden), device=hidden.device)
        total = torch.zeros_like(hidden, dtype=torch.float32)
        for slot in range(decision.experts.shape[-1]):
            alone = hidden.new_zeros(site.number_of_experts, *hidden.shape)
            alone[decision.experts[:, slot], token] = hidden * decision.weights[:, slot, None]
            total += site.experts.forward(alone.flatten(0, 1)).view_as(alone).float().sum(0)
        return checked.output.view(site.number_of_experts, *hidden.shape).float().sum(0), total


class SwitchReader(Reader):
    """switch_transformers: the index is one-hot, and an all-zero row is a token that found no room."""

    unforceable = "its experts take one-hot rows under a capacity limit, not indices"
    given = (Parameter(1, "selected_experts"), Parameter(2, "routing_weights"))

    def decode(self, site: "Site", given: tuple[torch.Tensor, ...], output: Any) -> Decision:
        """Read the one-hot rows [T, 1, E]; a dropped token has an empty slot."""
        one_hot, weights = given[0].detach(), given[1].detach()
        room, chosen = one_hot.max(dim=-1)
        dropped = room == 0
        experts = torch.where(dropped, site.number_of_experts, chosen)
        return Decision(rows(output[2]), experts, weights.masked_fill(dropped, 0))

    def recombine(
        self, site: "Site", decision: Decision, router: Call, checked: Call
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Run each chosen expert, by itself, on the tokens that chose it."""
        hidden = checked.arguments[0]
        total = torch.zeros_like(hidden, dtype=torch.float32)
        for expert in decision.experts.unique().tolist():
            if expert < site.number_of_experts:
                chose, _ = torch.where(decision.experts == expert)
                total[chose] = site.experts[f"expert_{expert}"].forward(hidden[chose]).float()  # type: ignore[index]
        return checked.output, total * decision.weights.float()


class JetMoeReader(Reader):
    """jetmoe: tokens in the order of their experts; the attention's projections are routed like the MLP is."""

    unforceable = "its router hands on tokens sorted by expert, not indices"
    checked = "router"

    def __init__(self, is_attention: bool) -> None:
        self._is_attention = self.runs_first = is_attention

    @classmethod
    def for_class(cls, name: str) -> "JetMoeReader":
        """Tell the attention's experts from the MLP's."""
        return cls(is_attention=name == "JetMoeMoA")

    def decode(self, site: "Site", given: tuple[torch.Tensor, ...], output: Any) -> Decision:
        """Undo the sort: position p of the flat [T * k] selection is token p // k, slot p % k."""
        order, _, sorted_weights, sizes, logits = output
        sizes = torch.as_tensor(sizes, device=order.device)
        experts, weights = torch.empty_like(order), torch.empty_like(sorted_weights)
        numbers = torch.arange(len(sizes), device=order.device)
        experts[order] = numbers.repeat_interleave(sizes, output_size=len(order))
        weights[order] = sorted_weights.detach()
        shape = (logits.shape[0], -1)
        return Decision(logits.detach(), experts.view(shape), weights.view(shape))

    def recombine(
        self, site: "Site", decision: Decision, router: Call, checked: Call
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Run the block on the router's input, and each expert's two projections by themselves."""
        block: Any = site.experts
        hidden = rows(router.arguments[0])
        if self._is_attention:
            queries, _, order = block.map(hidden[None])
            actual = block.reduce(queries, order)[0]
        else:
            actual = block.forward(hidden[None])[0]
        total = block.bias.float().expand_as(hidden).clone()
        for expert in decision.experts.unique().tolist():
            token, slot = torch.where(decision.experts == expert)
            sizes = [len(token) * (each == expert) for each in range(site.number_of_experts)]
            inner = block.input_linear.forward(hidden[token], sizes)
            if not self._is_attention:
                gate, up = inner.chunk(2, dim=-1)
                inner = block.activation(gate) * up
            outer = block.output_linear.forward(inner, sizes).float()
            total.index_add_(0, token, outer * decision.weights[token, slot, None].float())
        return actual, total


class DogeReader(Reader):
    """doge: an expert is a pair of keys; which pairs were chosen is computed again as its module computes it."""

    unforceable = "its module scores, chooses and runs the experts in one piece"
    checked = "router"

    def decode(self, site: "Site", given: tuple[torch.Tensor, ...], output: Any) -> Decision:
        """Repeat the choice of DogeCDMoE.forward, ties included; an expert's logit is the sum of its two keys'."""
        module: Any = site.router
        keys = output[1].detach()
        (x, y), (x_index, y_index) = keys.topk(module.num_keys, dim=-1)
        scores = (x.unsqueeze(-1) + y.unsqueeze(-2)).flatten(-2)
        pairs = (x_index.unsqueeze(-1) * module.num_keys + y_index.unsqueeze(-2)).flatten(-2)
        chosen, position = scores.topk(module.top_k, dim=-1)
        weights = functional.softmax(chosen, dim=-1)
        if module.norm_topk_prob:
            weights = weights / weights.sum(dim=-1, keepdim=True)
        logits = (keys[0].unsqueeze(-1) + keys[1].unsqueeze(-2)).flatten(-2)
        return Decision(logits, pairs.gather(-1, position), weights)

    def recombine(
        self, site: "Site", decision: Decision, router: Call, checked: Call
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add single experts (a row of each table) to the shared expert."""
        module: Any = site.router
        hidden = rows(router.arguments[0])
        total = module.down_proj(module.act_fn(module.gate_proj(hidden)) * module.up_proj(hidden)).float()
        for slot in range(decision.experts.shape[-1]):
            expert = decision.experts[:, slot]
            inner = module.act_fn((module.down_embed(expert) * hidden).sum(-1))
            total += (inner * decision.weights[:, slot])[:, None].float() * module.up_embed(expert).float()
        return rows(checked.output[0]), total
