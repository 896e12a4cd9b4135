import numpy as np
import pytest
import torch

from moe_models import VOCABULARY, build_model
from var_core.corpus.packing import PackedDomain
from var_core.models.baselines import fit_bigram, fit_unigram
from var_core.models.comparison import compare_with_baselines, expert_choices
from var_core.models.packed import Sequences, all_tokens
from var_core.models.perplexity import score_sequences


def text(seed: int, first: int) -> dict[str, PackedDomain]:
    """Random tokens in two domains of 12 and 4 sequences of 16."""
    rng = np.random.default_rng(seed)

    def domain(tokens: int, start: int) -> PackedDomain:
        ends = np.append(np.arange(30, tokens, 30), tokens)
        numbers = np.arange(start, start + len(ends), dtype=np.int32)
        return PackedDomain(16, rng.integers(0, VOCABULARY, tokens).astype(np.int32), numbers, ends)

    return {"code": domain(195, first), "prose": domain(70, first + 20)}


def test_expert_choices_are_what_the_router_chose() -> None:
    model = build_model("mixtral")
    tokens = torch.randint(0, VOCABULARY, (3, 16), generator=torch.Generator().manual_seed(0))
    with expert_choices(model) as counts:
        logits = model(tokens, output_router_logits=True).router_logits
        model(tokens[:1])
    model(tokens)  # after the block nothing is counted
    assert [int(count.sum()) for count in counts] == [2 * 64] * 3
    for layer, count in zip(logits, counts, strict=True):
        both = torch.cat([layer, layer[:16]]).topk(2).indices.flatten()
        assert count.tolist() == torch.bincount(both, minlength=8).tolist()


def test_model_and_baselines_are_scored_on_the_same_tokens() -> None:
    model, train, heldout = build_model("mixtral"), text(0, 0), text(1, 100)
    result = compare_with_baselines(model, train, heldout, VOCABULARY, max_tokens=8 * 16, name="tiny")
    sequences = Sequences(heldout)
    input_ids, document = sequences.rows(sequences.spread(8))
    tokens, documents = all_tokens(train)
    scores = {
        "model": score_sequences(model, input_ids, document, 8),
        "unigram": fit_unigram(tokens, VOCABULARY).score(input_ids, document),
        "bigram": fit_bigram(tokens, documents, VOCABULARY).score(input_ids, document),
    }
    whole, domains = result["heldout"], result["heldout"]["domains"]
    assert whole["sequences"] == 8
    assert {domain: part["sequences"] for domain, part in domains.items()} == {"code": 6, "prose": 2}
    assert whole["predicted_tokens"] == scores["model"].predicted.sum()
    assert sum(part["predicted_tokens"] for part in domains.values()) == whole["predicted_tokens"]
    for kind, score in scores.items():
        assert whole["perplexity"][kind] == pytest.approx(score.perplexity, rel=1e-6)
        log_sum = sum(part["predicted_tokens"] * np.log(part["perplexity"][kind]) for part in domains.values())
        assert log_sum == pytest.approx(score.nll_sum.sum())
    assert result["baselines"]["tokens"] == 195 + 70
    assert [set(load) for load in result["expert_load"]] == [{"max_over_mean", "min_over_mean"}] * 3
    assert all(load["max_over_mean"] > 1.2 > load["min_over_mean"] for load in result["expert_load"])
