"""Runs with simulated routing, written to disk as the stages write them, with every decision at hand as the truth."""

import contextlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from simulated_evaluation import write_evaluation
from simulated_systems import SimulatedSystems
from simulated_tuning import SimulatedTuning
from var_core.corpus.schema import VOCABULARY
from var_core.parquet import write_table
from var_core.statistics.tables import EXPERT_COUNTS, LAYER_STATS, QUANTITIES, TOKEN_STATS
from var_core.traces.schema import TRACE
from var_core.warehouse.build import build_warehouse
from var_core.warehouse.files import RunFiles

LENGTH = 16
SHARDS = {"capture": 3, "heldout": 2}
SPECIAL = (0, 1)


@dataclass(frozen=True)
class Decisions:
    """T tokens and their decisions at L layers."""

    token: np.ndarray  # [T]
    domain: np.ndarray  # [T], names
    sequence: np.ndarray  # [T]
    position: np.ndarray  # [T]
    document: np.ndarray  # [T]
    experts: np.ndarray  # [L, T, k]
    weights: np.ndarray  # [L, T, k]
    quantities: np.ndarray  # [Q, L, T]
    shuffled: np.ndarray  # [T], a permutation within sequences

    def __getitem__(self, rows):
        return Decisions(
            **{name: getattr(self, name)[rows] for name in ("token", "domain", "sequence", "position", "document")},
            experts=self.experts[:, rows],
            weights=self.weights[:, rows],
            quantities=self.quantities[:, :, rows],
            shuffled=np.argsort(np.argsort(self.shuffled[rows])),
        )

    @cached_property
    def first(self):
        """Largest-weight expert, [L, T]."""
        return np.take_along_axis(self.experts, self.weights.argmax(-1)[..., None], -1)[..., 0]

    def hot(self, experts):
        """Chosen experts as 0 and 1, [L, T, E]."""
        hot = np.zeros((*self.experts.shape[:2], experts), dtype=np.int64)
        np.put_along_axis(hot, self.experts, 1, -1)
        return hot

    def counts(self, vocabulary, experts):
        """Times chosen and times first, [L, V, E] each, counted decision by decision."""
        layers = len(self.experts)
        chosen, first = np.zeros((2, layers, vocabulary, experts), dtype=np.int64)
        layer = np.arange(layers)[:, None]
        np.add.at(chosen, (layer[..., None], self.token[None, :, None], self.experts), 1)
        np.add.at(first, (layer, self.token[None, :], self.first), 1)
        return chosen, first


@dataclass(frozen=True)
class SimulatedRun:
    model: str = "sim-a"
    corpus: str = "text"
    layers: int = 3
    experts: int = 8
    top_k: int = 2
    vocabulary: int = 60
    sequences: dict = field(default_factory=lambda: {"capture": 90, "heldout": 45})
    domains: tuple = ("code", "prose", "web")
    seed: int = 0

    @property
    def name(self):
        return f"{self.model}/{self.corpus}"

    @cached_property
    def decisions(self):
        """Split -> Decisions: tokens by a power law, routing by token with noise, one domain unlike the others."""
        generator = np.random.default_rng(self.seed)
        taste = 2.5 * generator.standard_normal((self.layers, self.vocabulary, self.experts))
        taste[..., -1] -= 4  # an expert that is hardly used
        accent = generator.standard_normal((len(self.domains), self.layers, self.experts))
        return {split: self._draw(generator, count, taste, accent) for split, count in self.sequences.items()}

    def _draw(self, generator, sequences, taste, accent):
        frequency = 1 / np.arange(1, self.vocabulary + 1) ** 1.2
        tokens = sequences * LENGTH
        token = generator.choice(self.vocabulary, tokens, p=frequency / frequency.sum())
        sequence = np.repeat(np.arange(sequences), LENGTH)
        domain = (sequence * len(self.domains)) // sequences
        position = np.tile(np.arange(LENGTH), sequences)
        noise = generator.gumbel(size=(self.layers, tokens, self.experts))
        logits = taste[:, token] + accent[domain].swapaxes(0, 1) + noise
        experts = np.argsort(-logits, -1)[..., : self.top_k]
        experts = generator.permuted(experts, axis=-1)  # not sorted by weight, as in real models
        weights = np.exp(np.take_along_axis(logits, experts, -1))
        weights = (weights / weights.sum(-1, keepdims=True)).astype(np.float32)
        entropy = generator.uniform(0, np.log(self.experts), (self.layers, tokens)) * (0.1 + token / self.vocabulary)
        quantities = np.stack([entropy, generator.uniform(0, 1, entropy.shape), generator.normal(size=entropy.shape)])
        order = np.lexsort([generator.random(tokens), sequence])
        return Decisions(
            token, np.array(self.domains)[domain], sequence, position, sequence * 2 + (position >= 7), experts, weights,
            quantities, order,
        )  # fmt: skip

    def provenance(self, split, **more):
        sites = [
            {"layer": layer, "path": f"model.layers.{layer}.mlp.experts", "experts": self.experts, "top_k": self.top_k}
            for layer in range(self.layers)
        ]
        return {
            "stage": "statistics",
            "plan": f"plan-{self.name}-{split}",
            "run": self.name,
            "split": split,
            "shards": SHARDS[split],
            "model": {"name": self.model, "revision": "abcdef0", "digest": f"digest-{self.model}"},
            "corpus": {"name": self.corpus, "digest": f"digest-{self.corpus}"},
            "sites": sites,
            "sequence_length": LENGTH,
            "tokens": self.sequences[split] * LENGTH,
            "config": {"seed": self.seed},
            "code": "c0de",
            "versions": {"torch": "2"},
            **more,
        }

    def shard(self, split, number):
        """Decisions of one shard: every so-many-th sequence."""
        decisions = self.decisions[split]
        return decisions[decisions.sequence % SHARDS[split] == number]

    def write(
        self,
        results: Path,
        traced=("heldout",),
        trained=True,
        verdicts=True,
        evaluated=True,
        tuned=True,
        systems=True,
    ) -> RunFiles:
        folder = results / self.model / self.corpus
        for split, decisions in self.decisions.items():
            for kind, table in self.tables(decisions).items():
                write_table(folder / "statistics" / split / f"{kind}.parquet", table, self.provenance(split))
            for number in range(SHARDS[split]):
                stem, shard = folder / "capture" / f"{split}-{number:05d}", self.shard(split, number)
                own = self.provenance(split, stage="capture", shard=number)
                for kind, table in self.tables(shard).items():
                    write_table(stem.with_name(f"{stem.name}.{kind}.parquet"), table, own)
                if split in traced:
                    write_table(stem.with_name(f"{stem.name}.trace.parquet"), trace_table(shard), own)
        ids = range(self.vocabulary + 3)  # the last ones never occur
        rows = [{"token_id": i, "token": f"tok'{i}", "special": i in SPECIAL} for i in ids]
        write_table(folder / "corpus" / "vocabulary.parquet", pa.Table.from_pylist(rows, VOCABULARY), {})
        (folder / "corpus" / "manifest.json").write_text('{"documents": 3}')
        record = {"model": self.model, "source": "demo", "path": ".", "digest": f"digest-{self.model}"}
        (results / "models" / self.model).mkdir(parents=True, exist_ok=True)
        (results / "models" / self.model / "model.json").write_text(json.dumps(record))
        if trained:
            training = "step,tokens,loss,gradient_norm\n1,96,8.25,1\n2,192,7.5,0.5\n"
            (results / "models" / self.model / "training.csv").write_text(training)
        if verdicts:
            self._write_verdicts(folder / "hypotheses" / "verdicts.parquet")
        if evaluated:
            write_evaluation(folder / "evaluation", self.provenance("capture"), self.domains, self.seed)
        if tuned:
            SimulatedTuning(layers=self.layers, seed=self.seed).write(folder / "tuning", self.provenance("capture"))
        if systems:
            self.systems(ran=evaluated).write(folder / "systems", self.provenance("capture"))
        return RunFiles.in_results(results, self.model, self.corpus)

    def systems(self, ran=True):
        """What its routing is worth."""
        return SimulatedSystems(*self.decisions.values(), self.experts, self.model, ran, self.seed)

    def _write_verdicts(self, path):
        rows = [
            {"hypothesis": "H1", "form": "as stated", "variant": "minimum count 1", "layer": layer, "measure": "rho",
             "statistic": 0.25, "n": 10, "n_unit": "types", "supportable": True, "verdict": "not supported", "note": "",
             "null": "permutation", "layers_tested": 3}
            for layer in (None, 0, 1)
        ]  # fmt: skip
        write_table(path, pa.Table.from_pylist(rows), {})

    def tables(self, decisions):
        """The three statistics tables, by sorting and counting, domain by domain."""
        parts = {"token_stats": [], "expert_counts": [], "layer_stats": []}
        for domain in sorted(set(decisions.domain)):
            some = decisions[decisions.domain == domain]
            for layer in range(self.layers):
                parts["token_stats"].append(_token_stats(some, domain, layer))
                parts["expert_counts"].append(_expert_counts(some, domain, layer))
                parts["layer_stats"].append(self._layer_stats(some, domain, layer))
        return {kind: pa.concat_tables(tables) for kind, tables in parts.items()}

    def _layer_stats(self, some, domain, layer):
        hot, first = some.hot(self.experts), some.first
        weights = np.bincount(some.experts[layer].ravel(), some.weights[layer].ravel().astype(float), self.experts)
        follows = (np.diff(some.sequence) == 0) & (np.diff(some.document) == 0) & (np.diff(some.position) == 1)
        common = (hot[layer, :-1] * hot[layer, 1:]).sum(-1)[follows]
        row = {
            "domain": domain,
            "layer": layer,
            "tokens": len(some.token),
            "nonfinite": 0,
            "dropped": 0,
            "pairs": int(follows.sum()),
            "first_repeats": int((first[layer, :-1] == first[layer, 1:])[follows].sum()),
            "any_repeats": int((common > 0).sum()),
            "slot_overlaps": int(common.sum()),
            "chosen": hot[layer].sum(0).tolist(),
            "first": np.bincount(first[layer], minlength=self.experts).tolist(),
            "weight_sum": weights.tolist(),
            "coactivation": (hot[layer].T @ hot[layer]).ravel().tolist(),
        }
        if layer + 1 < self.layers:
            joint = np.zeros((2, self.experts, self.experts), dtype=np.int64)
            np.add.at(joint[0], (first[layer], first[layer + 1]), 1)
            np.add.at(joint[1], (first[layer], first[layer + 1][some.shuffled]), 1)
            row["next_chosen"] = (hot[layer].T @ hot[layer + 1]).ravel().tolist()
            row["next_first"], row["next_first_shuffled"] = (matrix.ravel().tolist() for matrix in joint)
        return pa.Table.from_pylist([row], LAYER_STATS)


def _token_stats(some, domain, layer):
    token, inverse, n = np.unique(some.token, return_inverse=True, return_counts=True)
    columns = {"domain": [domain] * len(token), "layer": [layer] * len(token), "token_id": token, "n": n}
    for name, values in zip(QUANTITIES, some.quantities[:, layer], strict=True):
        mean = np.bincount(inverse, values) / n
        columns |= {f"{name}_mean": mean, f"{name}_m2": np.bincount(inverse, (values - mean[inverse]) ** 2)}
    return pa.table([pa.array(columns[f.name], f.type) for f in TOKEN_STATS], schema=TOKEN_STATS)


def _expert_counts(some, domain, layer):
    k = some.experts.shape[-1]
    pairs = np.stack([np.repeat(some.token, k), some.experts[layer].ravel()])
    (token, expert), inverse, chosen = np.unique(pairs, axis=1, return_inverse=True, return_counts=True)
    is_first = (some.experts[layer] == some.first[layer][:, None]).ravel()
    columns = {
        "domain": [domain] * len(token),
        "layer": [layer] * len(token),
        "token_id": token,
        "expert": expert,
        "chosen": chosen,
        "first": np.bincount(inverse, is_first).astype(np.int64),
        "weight_sum": np.bincount(inverse, some.weights[layer].ravel().astype(float)),
    }
    return pa.table([pa.array(columns[f.name], f.type) for f in EXPERT_COUNTS], schema=EXPERT_COUNTS)


def trace_table(some):
    layers, tokens, _ = some.experts.shape

    def per_token(values):
        return np.repeat(values, layers)

    columns = {
        "sequence": per_token(some.sequence),
        "position": per_token(some.position),
        "layer": np.tile(np.arange(layers), tokens),
        "document": per_token(some.document),
        "domain": pa.array(per_token(some.domain)).dictionary_encode().cast(TRACE.field("domain").type),
        "token_id": per_token(some.token),
        "experts": list(some.experts.swapaxes(0, 1).reshape(layers * tokens, -1)),
        "weights": list(some.weights.swapaxes(0, 1).reshape(layers * tokens, -1)),
        **{name: some.quantities[q].T.ravel() for q, name in enumerate(QUANTITIES)},
    }
    arrays = [c if isinstance(c := columns[f.name], pa.Array) else pa.array(c, f.type) for f in TRACE]
    return pa.table(arrays, schema=TRACE)


SMALL = SimulatedRun()
OTHER = SimulatedRun(
    model="sim-b", corpus="web.v1", layers=2, experts=12, top_k=4, vocabulary=35, domains=("only",), seed=1
)


@pytest.fixture(scope="session")
def results(tmp_path_factory):
    """A results folder with two runs of unlike models; not to be changed by tests."""
    results = tmp_path_factory.mktemp("project") / "results"
    SMALL.write(results)
    OTHER.write(results, traced=(), trained=False, verdicts=False, evaluated=False, tuned=False, systems=False)
    return results


@pytest.fixture(scope="session")
def database(results):
    """The warehouse over both runs; open it read-only."""
    with contextlib.chdir(results.parent):
        runs = [RunFiles.in_results(Path("results"), run.model, run.corpus) for run in (SMALL, OTHER)]
        build_warehouse(runs, Path("results/var.duckdb"), 500, "c0de")
    return results / "var.duckdb"


@pytest.fixture(scope="session")
def simulated_run():
    """The class, for tests that write a run of their own."""
    return SimulatedRun


@pytest.fixture(scope="session")
def small():
    """Three layers, 8 experts, k = 2, three domains; traced, trained, with all that later stages make."""
    return SMALL


@pytest.fixture(scope="session")
def other():
    """Two layers, 12 experts, k = 4, another vocabulary, one domain; nothing of later stages, and no trace."""
    return OTHER
