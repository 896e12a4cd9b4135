"""A simulated run with known truth, as the tables that the hypotheses stage reads."""

from dataclasses import dataclass, replace

import duckdb
import numpy as np
import pandas as pd
import pytest

from var_core.config.hypotheses import H2Config, HypothesesConfig

RUN = "simulated/text"
DOMAINS = ("code", "prose")


@dataclass(frozen=True)
class Truth:
    """How the simulated router decides: logits are what it knows of the token plus noise."""

    documents_per_group: int = 1
    seed: int = 0
    types: int = 300
    experts: int = 8
    top_k: int = 2
    layers: int = 2
    shards: int = 6
    documents: int = 120
    tokens: int = 30_000
    token_effect: float = 2.0
    """standard deviation of what a token type adds to each logit; 0: routing that ignores the token"""
    fading: float = 0.0
    """1: the effect of the token fades from twice as much for the most frequent type to nothing for the rarest"""
    document_effect: float = 0.0
    domain_effect: float = 0.0
    """standard deviation of what a domain adds to each type's logits"""
    load_effect: float = 0.5
    """standard deviation of what every token adds to an expert's logit"""
    noise: float = 1.0
    exponent: float = 1.0
    """slope of the rank-frequency line"""
    special: tuple[int, ...] = (0,)


@dataclass
class Sample:
    """Decisions of one split: arrays of length N, experts and weights of shape (layers, N, k)."""

    document: np.ndarray
    domain: np.ndarray
    shard: np.ndarray
    token_id: np.ndarray
    experts: np.ndarray
    weights: np.ndarray
    entropy: np.ndarray


def draw(truth: Truth) -> dict[str, Sample]:
    """Draw a capture and a held-out split of the same text source and router."""
    random = np.random.default_rng(truth.seed)
    shares = np.arange(1, truth.types + 1.0) ** -truth.exponent
    shares /= shares.sum()
    size = (truth.layers, truth.types, truth.experts)
    strength = 1 + truth.fading * np.linspace(1, -1, truth.types)[:, None]
    token_logits = truth.token_effect * strength * random.normal(size=size)
    domain_logits = truth.domain_effect * random.normal(size=(len(DOMAINS), *size))
    load_logits = truth.load_effect * random.normal(size=(truth.layers, 1, truth.experts))
    samples = {}
    for number, split in enumerate(("capture", "heldout")):
        document = np.sort(random.integers(truth.documents, size=truth.tokens))
        token_id = random.choice(truth.types, size=truth.tokens, p=shares)
        domain = document % len(DOMAINS)
        experts, weights, entropy = [], [], []
        for layer in range(truth.layers):
            logits = token_logits[layer, token_id] + domain_logits[domain, layer, token_id] + load_logits[layer]
            logits += truth.document_effect * random.normal(size=(truth.documents, truth.experts))[document]
            logits += truth.noise * random.gumbel(size=logits.shape)
            p = np.exp(logits - logits.max(axis=1, keepdims=True))
            p /= p.sum(axis=1, keepdims=True)
            order = np.argsort(-p, axis=1)[:, : truth.top_k]
            order = np.where(random.random((len(order), 1)) < 0.5, order, order[:, ::-1])  # not sorted by weight
            experts.append(order)
            weights.append(np.take_along_axis(p, order, axis=1))
            entropy.append(-(p * np.log(np.maximum(p, 1e-300))).sum(axis=1))
        samples[split] = Sample(
            document + number * truth.documents,
            domain,
            document % truth.shards,
            token_id,
            np.array(experts),
            np.array(weights, dtype=np.float32),
            np.array(entropy),
        )
    return samples


def load(truth: Truth, connection: duckdb.DuckDBPyConnection, shard_counts: bool = True) -> dict[str, Sample]:
    """Put a simulated run into the tables that the hypotheses stage reads."""
    samples = draw(truth)
    token_stats, shard_stats, counts, shard_counts_rows, traces = [], [], [], [], []
    for split, sample in samples.items():
        for layer in range(truth.layers):
            first = np.take_along_axis(sample.experts[layer], sample.weights[layer].argmax(axis=1)[:, None], axis=1)[
                :, 0
            ]
            rows = pd.DataFrame(
                {
                    "run": RUN,
                    "split": split,
                    "shard": sample.shard,
                    "domain": np.array(DOMAINS)[sample.domain],
                    "layer": layer,
                    "token_id": sample.token_id,
                    "document": sample.document,
                    "entropy": sample.entropy[layer],
                    "first": first,
                }
            )
            keys = ["run", "split", "domain", "layer", "token_id"]
            for target, by in ((token_stats, keys), (shard_stats, [*keys, "shard"])):
                target.append(
                    rows.groupby(by, observed=True)["entropy"].agg(n="size", router_entropy_mean="mean").reset_index()
                )
            slots = rows.loc[rows.index.repeat(truth.top_k)].reset_index(drop=True)
            slots["expert"] = sample.experts[layer].ravel()
            slots["is_first"] = (slots["expert"] == slots["first"]).astype(int)
            for target, by in ((counts, keys), (shard_counts_rows, [*keys, "shard"])):
                target.append(
                    slots.groupby([*by, "expert"], observed=True)["is_first"]
                    .agg(chosen="size", first="sum")
                    .reset_index()
                )
            if split == "heldout":
                trace = rows[["run", "split", "document", "domain", "layer", "token_id"]].copy()
                trace["experts"] = list(sample.experts[layer].astype(np.int16))
                trace["weights"] = list(sample.weights[layer])
                traces.append(trace)
    token = np.arange(truth.types)
    occurrences = {split: np.bincount(sample.token_id, minlength=truth.types) for split, sample in samples.items()}
    frames = {
        "runs": pd.DataFrame({"run": [RUN], "model": ["simulated"], "corpus": ["text"], "provenance": ["{}"]}),
        "layers": pd.DataFrame(
            {
                "run": RUN,
                "layer": np.arange(truth.layers),
                "path": "",
                "experts": truth.experts,
                "top_k": truth.top_k,
            }
        ),
        "tokens": pd.DataFrame(
            {
                "run": RUN,
                "token_id": token,
                "token": token.astype(str),
                "special": np.isin(token, truth.special),
                "capture_count": occurrences["capture"],
                "heldout_count": occurrences["heldout"],
            }
        ),
        "token_stats": pd.concat(token_stats),
        "shard_token_stats": pd.concat(shard_stats),
        "expert_counts": pd.concat(counts),
        "traces": pd.concat(traces),
    }
    number = np.unique(frames["traces"]["document"])
    group = [f"group {each // truth.documents_per_group}" for each in number]
    frames["documents"] = pd.DataFrame({"run": RUN, "document": number.astype(np.int32), "group": group})
    if shard_counts:
        frames["shard_expert_counts"] = pd.concat(shard_counts_rows)
    for name, frame in frames.items():
        connection.register("frame", frame)
        connection.execute(f"CREATE TABLE {name} AS SELECT * FROM frame")
        connection.unregister("frame")
    return samples


@pytest.fixture(scope="session")
def simulated():
    """A function that gives a connection to a run simulated with other than the default truth."""
    opened = []

    def simulate(shard_counts: bool = True, **changes):
        opened.append(duckdb.connect())
        load(replace(Truth(), **changes), opened[-1], shard_counts)
        return opened[-1]

    yield simulate
    for connection in opened:
        connection.close()


@pytest.fixture(scope="session")
def informative(simulated):
    """A router that decides by the token."""
    return simulated()


@pytest.fixture(scope="session")
def blind(simulated):
    """A router that ignores the token: the negative control of everything."""
    return simulated(token_effect=0.0)


@pytest.fixture(scope="session")
def quick():
    """Settings with few draws and thresholds that suit 300 token types."""
    return HypothesesConfig(permutations=200, null_draws=24, bootstrap=200, h2=H2Config(goodness_of_fit_draws=19))


@pytest.fixture(scope="session")
def pick():
    """A function that gives the one result with these fields."""

    def one(results, **fields):
        found = [row for row in results if all(getattr(row, name) == value for name, value in fields.items())]
        assert len(found) == 1, f"{len(found)} results with {fields}"
        return found[0]

    return one
