"""Runs with simulated routing, counted and written by the real stages, to draw figures from."""

import csv
import importlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.transforms import Bbox

from policies_to_draw import SimulatedEvaluation, open_sources
from simulated_tuning import SimulatedTuning
from systems_to_draw import SimulatedSystems, open_systems
from tunings_to_draw import open_study
from var_core.config.hypotheses import H2Config, H3Config, H4Config, HypothesesConfig
from var_core.corpus.schema import VOCABULARY
from var_core.evaluation import names
from var_core.figures.registry import OF_POLICY, OF_PROFILE, OF_SYSTEMS, OF_TUNING, figures_of
from var_core.figures.sources import Sources
from var_core.figures.style import styled
from var_core.hypotheses.results import read_verdicts
from var_core.hypotheses.run import test_hypotheses as run_hypotheses
from var_core.parquet import write_table
from var_core.routing.batch import RoutedBatch, RouterLayout
from var_core.statistics.accumulator import Accumulator, TokenBatch
from var_core.statistics.merge import merge_tables
from var_core.statistics.tables import SCHEMAS
from var_core.systems.devices import PRESETS
from var_core.systems.machine import MACHINE
from var_core.systems.profiles import PLAIN
from var_core.traces.batch import trace_rows
from var_core.warehouse.files import RunFiles
from var_core.warehouse.run import open_run

ODD_TOKENS = ("<s>", " ", "\n        ", " the", "$x^2$", "中", "\t", "_id*`|", "antidisestablishmentarianism")
LENGTH = 64


@dataclass(frozen=True)
class Simulation:
    """Logits are what the router knows of the token, of the domain and of nothing, plus noise."""

    model: str = "simulated"
    layers: int = 3
    experts: int = 8
    top_k: int = 2
    vocabulary: int = 250
    domains: tuple[str, ...] = ("code", "prose")
    capture: int = 120
    """sequences"""
    heldout: int = 80
    token_effect: float = 2.0
    load_effect: float = 0.5
    noise: float = 1.0
    trained: bool = True
    measure: str = "set_agreement"
    """agreement that the verdict on H4 uses"""
    seed: int = 0

    @property
    def hypotheses(self):
        return HypothesesConfig(
            permutations=20,
            null_draws=2,
            bootstrap=30,
            h2=H2Config(goodness_of_fit_draws=20),
            h3=H3Config(most_frequent=80),
            h4=H4Config(agreement_measure=self.measure),
        )

    def write(self, results: Path) -> RunFiles:
        """Write the files of the run as the stages do, with verdicts."""
        random = np.random.default_rng(self.seed)
        size = (self.layers, self.vocabulary, self.experts)
        taste = self.token_effect * random.normal(size=size) + self.load_effect * random.normal(
            size=(self.layers, 1, self.experts)
        )
        accent = 0.7 * random.normal(size=(len(self.domains), self.layers, 1, self.experts))
        folder, sequence = results / self.model / "text", 0
        for split, shards, sequences in (("capture", 4, self.capture), ("heldout", 2, self.heldout)):
            tables = {kind: [] for kind in SCHEMAS}
            for shard in range(shards):
                stem = folder / "capture" / f"{split}-{shard:05d}"
                own, traces = {kind: [] for kind in SCHEMAS}, []
                for number, domain in enumerate(self.domains):
                    share = sequences // shards // len(self.domains)
                    statistics, trace = self._count(
                        random, np.arange(sequence, sequence + share), domain, taste + accent[number]
                    )
                    sequence += share
                    traces.append(trace)
                    for kind, table in statistics.items():
                        own[kind].append(table)
                for kind, parts in own.items():
                    merged = merge_tables(kind, parts)
                    tables[kind].append(merged)
                    write_table(Path(f"{stem}.{kind}.parquet"), merged, self._provenance(split))
                if split == "heldout":
                    write_table(
                        Path(f"{stem}.trace.parquet"),
                        pa.Table.from_batches(traces).unify_dictionaries(),
                        self._provenance(split),
                    )
            for kind, parts in tables.items():
                write_table(
                    folder / "statistics" / split / f"{kind}.parquet",
                    merge_tables(kind, parts),
                    self._provenance(split),
                )
        self._write_records(results, folder)
        files = RunFiles.in_results(results, self.model, "text")
        with open_run(files) as connection:
            run_hypotheses(connection, files.run, self.hypotheses, folder / "hypotheses", "code")
        return RunFiles.in_results(results, self.model, "text")

    def _count(self, random, sequence, domain, logits_of_types):
        shares = 1 / np.arange(1, self.vocabulary + 1) ** 1.1
        tokens = random.choice(self.vocabulary, size=(len(sequence), LENGTH), p=shares / shares.sum())
        logits = logits_of_types[:, tokens.ravel()] + self.noise * random.gumbel(
            size=(self.layers, tokens.size, self.experts)
        )
        logits = torch.from_numpy(logits).float()
        weights, experts = logits.softmax(-1).topk(self.top_k)
        routed = RoutedBatch(logits, experts, weights)
        document = np.repeat(sequence[:, None], LENGTH, axis=1)
        accumulator = Accumulator(
            RouterLayout.uniform(self.layers, self.experts, 2), self.vocabulary, torch.device("cpu")
        )
        batch = TokenBatch.from_sequences(torch.from_numpy(tokens), torch.from_numpy(document))
        quantities = accumulator.update(batch, routed, 0)
        return accumulator.tables(domain), trace_rows(
            sequence, tokens, document, domain, routed, quantities, self.experts
        )

    def _provenance(self, split):
        return {
            "stage": "statistics",
            "run": f"{self.model}/text",
            "plan": f"plan-{split}",
            "model": {"name": self.model, "revision": None, "digest": "digest"},
            "corpus": {"name": "text", "digest": "digest"},
            "split": split,
            "sites": [
                {"layer": layer, "path": f"layers.{layer}", "experts": self.experts, "top_k": self.top_k}
                for layer in range(self.layers)
            ],
            "sequence_length": LENGTH,
            "config": {},
            "code": "code",
        }  # fmt: skip

    def _write_records(self, results, folder):
        texts = [ODD_TOKENS[i] if i < len(ODD_TOKENS) else f" w{i}" for i in range(self.vocabulary)]
        rows = [{"token_id": i, "token": text, "special": i == 0} for i, text in enumerate(texts)]
        write_table(folder / "corpus/vocabulary.parquet", pa.Table.from_pylist(rows, VOCABULARY), {})
        (folder / "corpus/manifest.json").write_text("{}")
        model = results / "models" / self.model
        model.mkdir(parents=True)
        (model / "model.json").write_text(json.dumps({"model": self.model, "source": "demo", "digest": "digest"}))
        if self.trained:
            self._write_training(model)

    def _write_training(self, model):
        perplexity = {"model": 60.0, "bigram": 110.0, "unigram": 600.0}
        (model / "training.json").write_text(json.dumps({"heldout": {"perplexity": perplexity}}))
        with (model / "training.csv").open("w") as stream:
            writer = csv.writer(stream)
            writer.writerow(["step", "tokens", "loss", "load_balancing_loss", "learning_rate"])
            for step in range(1, 201):
                writer.writerow([step, step * 4096, 4 + 4 * np.exp(-step / 40), 2.0 + 0.5 / step, 1e-3])


@dataclass(frozen=True)
class Line:
    """A line of text as it is drawn; size in points, box in pixels from the lower left corner of the figure."""

    text: str
    size: float
    box: Bbox


class _TextRecorder(RendererAgg):
    """Draws as usual, and keeps what text it draws where."""

    def __init__(self, *shape):
        super().__init__(*shape)
        self.lines = []

    def draw_text(self, gc, x, y, s, prop, angle, ismath=False, mtext=None):
        super().draw_text(gc, x, y, s, prop, angle, ismath, mtext)
        width, height, descent = self.get_text_width_height_descent(s, prop, ismath)
        left, bottom = x, self.height - y
        if angle == 0:
            box = Bbox.from_bounds(left, bottom - descent, width, height)
        else:
            assert angle == 90
            box = Bbox.from_bounds(left + descent - height, bottom, height, width)
        if s.strip():
            self.lines.append(Line(s, prop.get_size_in_points(), box))


def drawn_texts(figure):
    """Draw a figure, and return the lines of text in it."""
    renderer = _TextRecorder(*figure.bbox.size.astype(int), figure.dpi)
    figure.draw(renderer)
    return renderer.lines


class Drawn:
    """Something to draw from, with its figures as far as they have been asked for."""

    def __init__(self, sources: Sources, figures: tuple[str, ...]) -> None:
        self.sources, self.figures, self._drawings = sources, figures, {}

    def drawing(self, name):
        """The figure, laid out as it is saved."""
        return self._drawn(name)[0]

    def texts(self, name):
        """All text that is drawn in the figure, line by line."""
        return self._drawn(name)[1]

    def _drawn(self, name):
        if name not in self._drawings:
            drawing = importlib.import_module(f"var_core.figures.{name}").draw(self.sources)
            self._drawings[name] = drawing, drawn_texts(drawing.figure)
        return self._drawings[name]


class Worth(Drawn):
    """What made-up routing is worth."""

    def __init__(self, simulation: SimulatedSystems) -> None:
        self.simulation = simulation
        names = [name for name in OF_SYSTEMS if simulation.arms or name not in OF_PROFILE]
        super().__init__(open_systems(simulation), tuple(names))


class Run(Drawn):
    """A simulated run on disk and open."""

    def __init__(self, simulation: Simulation, results: Path) -> None:
        self.simulation, self.results = simulation, results
        self.files = simulation.write(results)
        self.verdicts = results / simulation.model / "text/hypotheses/verdicts.json"
        training = (
            json.loads((results / "models" / simulation.model / "training.json").read_text())
            if simulation.trained
            else None
        )
        sources = Sources(open_run(self.files), self.files.run, read_verdicts(self.verdicts), training)
        super().__init__(sources, figures_of(simulation.trained, policy=False, tuned=False, systems=False))


@pytest.fixture(name="drawn_texts")
def drawn_texts_fixture():
    """The function that draws a figure and returns its lines of text."""
    return drawn_texts


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """A router that decides by the token: three layers, 8 experts, k = 2, two domains, trained here."""
    return Run(Simulation(), tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="session")
def blind(tmp_path_factory):
    """A router that knows nothing of the token, with uneven load; one domain: the negative control."""
    simulation = Simulation("blind", token_effect=0.0, domains=("only",), trained=False)
    return Run(simulation, tmp_path_factory.mktemp("blind"))


@pytest.fixture(scope="session")
def wide(tmp_path_factory):
    """Many layers, experts and domains: what must still be legible."""
    domains = ("web", "code", "books", "articles of an encyclopedia")
    simulation = Simulation(
        "wide",
        layers=13,
        experts=64,
        capture=48,
        heldout=48,
        vocabulary=120,
        noise=0.7,
        domains=domains,
        trained=False,
        measure="recall_at_k",
    )
    return Run(simulation, tmp_path_factory.mktemp("wide"))


@pytest.fixture(scope="session")
def evaluated():
    """A policy of four layers on three domains, with all arms."""
    return Drawn(open_sources(SimulatedEvaluation()), OF_POLICY)


@pytest.fixture(scope="session")
def smallest():
    """One layer, one domain, no cache, and too few sequences for intervals."""
    simulation = SimulatedEvaluation(layers=1, domains=("only",), sequences=6, cached=False)
    return Drawn(open_sources(simulation), OF_POLICY)


@pytest.fixture(scope="session")
def deep():
    """As many layers and domains as must still be legible."""
    domains = tuple(f"domain number {place}" for place in range(9))
    return Drawn(open_sources(SimulatedEvaluation(layers=48, domains=domains)), OF_POLICY)


@pytest.fixture(scope="session")
def few_arms():
    """The policy beside the plain model and nothing else; two domains, one of a long name."""
    arms, domains = (names.PLAIN, names.POLICY), ("web", "articles of an encyclopedia")
    return Drawn(open_sources(SimulatedEvaluation(arms=arms, domains=domains)), OF_POLICY)


@pytest.fixture(scope="session")
def tuned():
    """A study of two objectives, some of whose trials failed, with every setting that is searched."""
    return Drawn(open_study(SimulatedTuning(trials=200)), OF_TUNING)


@pytest.fixture(scope="session")
def few_trials():
    """As few trials as there may be: no importances, and no intervals."""
    simulation = SimulatedTuning(trials=10, layers=1, intervals=False, front_points=3, importances=False)
    return Drawn(open_study(simulation), OF_TUNING)


@pytest.fixture(scope="session")
def many_trials():
    """As many trials and layers as must still be legible."""
    return Drawn(open_study(SimulatedTuning(trials=1000, layers=48)), OF_TUNING)


@pytest.fixture(scope="session")
def one_objective():
    """One objective, and one setting with numbers."""
    simulation = SimulatedTuning(objectives=("learned_share",), classic=False, caches=False)
    return Drawn(open_study(simulation), OF_TUNING)


@pytest.fixture(scope="session")
def worth():
    """A model that was profiled and run with offloaded experts, on five devices."""
    return Worth(SimulatedSystems())


@pytest.fixture(scope="session")
def replayed_only():
    """Routing that was recorded elsewhere: no model, no times, no intervals."""
    return Worth(SimulatedSystems(shaped=False, arms=(), intervals=False))


@pytest.fixture(scope="session")
def many_sizes():
    """As many sizes, batches and devices as must still be legible."""
    devices = (MACHINE, *PRESETS, *(f"device number {place}" for place in range(4)))
    timed = tuple(2**power for power in range(9))
    return Worth(SimulatedSystems(layers=48, sizes=31, devices=devices, timed=timed))


@pytest.fixture(scope="session")
def one_device():
    """A model that was timed as it is, with one batch size, on one device."""
    return Worth(SimulatedSystems(layers=1, devices=(MACHINE,), arms=(PLAIN,), timed=(1,), known=(), sizes=2))


@pytest.fixture(autouse=True)
def style():
    """Draw in the figures' style."""
    with styled():
        yield
