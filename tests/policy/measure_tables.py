"""Figures of the decision on pairs and positions, after ``make demo``: what tables by context gain over tokens alone.

``PYTHONPATH=. python tests/policy/measure_tables.py RESULTS FOLDER``: the results folder, which is only read, and one
for traces (about 100 MB). The fitting split is traced with the model unless its trace is there already; the held-out
documents are halved by group into a calibration and a test half, once for each of some seeds.
"""

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import transformers

from var_core.capture.batches import plan_batches
from var_core.corpus.shards import TokenShard, position_ids
from var_core.parquet import read_provenance, write_batches
from var_core.policy.calibration import PairChoice, agreement_scores, calibrate, rows_of
from var_core.policy.compare import COVERAGES, coverage_curve, gain_at_equal_coverage, promises
from var_core.policy.fit import Minimums, Pairs, fit_tables
from var_core.policy.fitting import ExpertSums, fit_entries
from var_core.policy.recorded import read_decisions, set_agreement
from var_core.policy.tables import PolicyTables, keep_pairs, token_only
from var_core.routing.batch import RouterLayout
from var_core.routing.recorder import Recorder
from var_core.routing.sites import find_sites
from var_core.traces.batch import trace_rows
from var_core.traces.schema import TRACE

RUN, MODEL, CORPUS = "demo-moe/python-stdlib", "models/demo-moe", "corpora/python-stdlib"
CALIBRATION = 0.4


def trace_fitting_split(results: Path, folder: Path) -> list[Path]:
    """Trace of the fitting split, of decisions that are the model's own."""
    found = sorted((results / RUN / "capture").glob("capture-*.trace.parquet"))
    if found:
        return found
    shards = sorted((results / RUN / "corpus").glob("capture-*.parquet"))
    paths = [folder / f"{shard.stem}.trace.parquet" for shard in shards]
    if not all(path.exists() for path in paths):
        model = transformers.AutoModel.from_pretrained(results / MODEL).eval()
        for shard, path in zip(shards, paths, strict=True):
            write_batches(path, TRACE, _decisions(model, TokenShard(shard)), {})
    return paths


def _decisions(model: torch.nn.Module, tokens: TokenShard) -> Iterator[pa.RecordBatch]:
    width = model.config.num_local_experts
    for batch in plan_batches(tokens.domain, 16, 0, len(tokens.domain)):
        rows = tokens.rows(batch.start, batch.stop)
        ids = torch.from_numpy(rows.input_ids.astype(np.int64))
        positions = torch.from_numpy(position_ids(rows.document))
        with Recorder(find_sites(model)) as recorder, torch.inference_mode():
            model(ids, position_ids=positions, use_cache=False)
            made = recorder.take()
        yield trace_rows(rows.sequence, rows.input_ids, rows.document, rows.domain, made, None, width)


def split_held_out(results: Path, folder: Path, seed: int) -> tuple[list[Path], list[Path]]:
    """Traces of the held-out documents, whole groups of them in a calibration and a test half."""
    documents = pq.read_table(results / CORPUS / "documents.parquet", columns=["document", "group"])
    traces = sorted((results / RUN / "capture").glob("heldout-*.trace.parquet"))
    tables = [pq.read_table(path) for path in traces]
    _, group = np.unique(documents["group"].to_numpy().astype(str), return_inverse=True)
    size = np.bincount(
        group, np.bincount(np.concatenate([t["document"].to_numpy() for t in tables]), minlength=len(group))
    )
    order = np.random.default_rng(seed).permutation(len(size))
    calibrated = np.zeros(len(size), np.bool_)
    calibrated[order] = size[order].cumsum() <= CALIBRATION * size.sum()
    halves = []
    for name, wanted in (("calibration", calibrated), ("test", ~calibrated)):
        paths = [folder / f"{name}-{path.name}" for path in traces]
        for table, path in zip(tables, paths, strict=True):
            pq.write_table(table.filter(pa.array(wanted[group[table["document"].to_numpy()]])), path)
        halves.append(paths)
    return halves[0], halves[1]


def groups_of_sequences(results: Path, traces: list[Path]) -> np.ndarray:
    """The group of documents that each sequence of a trace begins with."""
    documents = pq.read_table(results / CORPUS / "documents.parquet", columns=["group"])
    _, group = np.unique(documents["group"].to_numpy().astype(str), return_inverse=True)
    rows = pa.concat_tables([pq.read_table(path, columns=["sequence", "document"]) for path in traces])
    _, first = np.unique(rows["sequence"].to_numpy(), return_index=True)
    return group[rows["document"].to_numpy()[first]]


class Measuring:
    """Fits, calibrates and tests variants of the tables."""

    def __init__(self, results: Path, folder: Path, seeds: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.results, self.statistics = results, results / RUN / "statistics/capture"
        self.fitted_on = trace_fitting_split(results, folder)
        config = transformers.AutoConfig.from_pretrained(results / MODEL)
        self.layout = RouterLayout.uniform(
            config.num_hidden_layers, config.num_local_experts, config.num_experts_per_tok
        )
        self.vocabulary = config.vocab_size
        corpus = next((results / RUN / "corpus").glob("capture-*.parquet"))
        self.isolated = bool(read_provenance(corpus)["isolate_documents"])
        self.splits = []
        for seed in range(seeds):
            (folder / str(seed)).mkdir(exist_ok=True)
            self.splits.append(split_held_out(results, folder / str(seed), seed))

    def fit(self, pairs: Pairs = Pairs(), minimum: int = 2):
        return fit_tables(
            self.statistics, self.layout, self.vocabulary, self.fitted_on, Minimums(1, minimum),
            isolate_documents=self.isolated, pairs=pairs,
        )  # fmt: skip

    def calibrate(self, tables, traces, choice: PairChoice = PairChoice()):
        return calibrate(tables, self.layout, traces, isolate_documents=self.isolated, choice=choice)

    def variant(self, name: str, make: Callable[[list[Path]], PolicyTables], token=None) -> np.ndarray:
        """Mean of the curves over the coverages and splits, by layer; prints a row of the table."""
        curves, kept, over = [], [], []
        for calibration, test in self.splits:
            made = make(calibration)
            kept.append(made.present[:, self.vocabulary : -1].sum().item() / len(self.layout))
            for layer, shape in enumerate(self.layout.layers):
                recorded = read_decisions(test, layer, shape.experts, shape.top_k, self.isolated)
                score, promised = promises(made, layer, self.layout, recorded, "set_agreement")
                curves.append(coverage_curve(score, promised))
                over.append((promised - score)[promised >= 0].mean())
        means = np.mean(curves, axis=1).reshape(-1, len(self.layout)).mean(axis=0)
        shown = means if token is None else means - token
        cells = [f"{value:.4f}" if token is None else f"{value:+.4f}" for value in (*shown, shown.mean())]
        print(f"| {name} | " + " | ".join(cells) + f" | {np.mean(kept):,.0f} | {np.mean(over):+.3f} |", flush=True)
        return means


EVERY_PAIR = PairChoice(least_gain=-1.0)


def variants(measuring: Measuring) -> None:
    """The choices of the decision, each by itself."""
    layers = " | ".join(f"layer {layer}" for layer in range(len(measuring.layout)))
    print(f"| tables | {layers} | mean | pairs a layer | promised - tested |\n|{'---|' * (len(measuring.layout) + 4)}")
    chosen = measuring.fit()
    token = measuring.variant("by token", lambda traces: measuring.calibrate(token_only(chosen), traces))

    def row(name: str, tables: PolicyTables, choice: PairChoice = PairChoice()) -> None:
        measuring.variant(name, lambda traces: measuring.calibrate(tables, traces, choice), token)

    row("chosen", chosen)
    for least in (-1.0, 0.01, 0.05):
        row("every pair" if least < 0 else f"gain over {least}", chosen, PairChoice(least_gain=least))
    for name, rule in rules(measuring, chosen).items():
        measuring.variant(name, rule, token)
    for most in (2_500, 10_000, 40_000):
        row(f"at most {most:,} pairs", chosen, PairChoice(most=most))
    row("the 10,000 pairs seen most", measuring.fit(Pairs(most=10_000)), EVERY_PAIR)
    for minimum in (1, 3, 5):
        row(f"seen {minimum} times", measuring.fit(minimum=minimum))
    for like_token in (0.0, 1.0, 4.0, 8.0):
        row(f"{like_token:g} decisions like the token's", measuring.fit(Pairs(like_token=like_token)))
    for positions in ((), (0, 1), (0, 1, 2), (0, 1, 2, 4, 8), (0, 1, 2, 4, 8, 16, 32)):
        row(f"early positions {positions}", measuring.fit(Pairs(positions=positions)))


def rules(measuring: Measuring, fitted: PolicyTables) -> dict[str, Callable[[list[Path]], PolicyTables]]:
    """Ways to choose pairs that were not taken, and tokens judged by all of their decisions."""
    V = measuring.vocabulary
    tokens = fitted.pairs % V

    def kept(rule: Callable[[np.ndarray, np.ndarray, list[Path]], np.ndarray]):
        def make(traces: list[Path]) -> PolicyTables:
            own = measuring.calibrate(fitted, traces, EVERY_PAIR).agreement[:, V:-1].numpy()
            of_token = measuring.calibrate(token_only(fitted), traces).agreement[:, tokens].numpy()
            return measuring.calibrate(keep_pairs(fitted, rule(own, of_token, traces)), traces, EVERY_PAIR)

        return make

    def seen(traces: list[Path]) -> np.ndarray:
        shape = measuring.layout.layers[0]
        recorded = read_decisions(traces, 0, shape.experts, shape.top_k, measuring.isolated)
        pair = rows_of(fitted, recorded).candidates[0].numpy()
        return np.bincount(pair[pair >= 0] - V, minlength=len(tokens))

    def judged_by_all(traces: list[Path]) -> PolicyTables:
        made = measuring.calibrate(fitted, traces)
        made.agreement[:, :V] = measuring.calibrate(token_only(fitted), traces).agreement[:, :V]
        return made

    return {
        "only pairs that agree more than their token": kept(lambda own, of_token, _: own > of_token),
        "and those that agree less by 0.05": kept(lambda own, of_token, _: (own > of_token) | (own < of_token - 0.05)),
        "pairs seen 3 times in calibration": kept(lambda own, _, traces: (seen(traces) >= 3) & (own > -1)),
        "tokens judged by all their decisions": judged_by_all,
    }


def gains(measuring: Measuring) -> None:
    """Gain of the chosen tables over those by token, by layer, on the first test half."""
    calibration, test = measuring.splits[0]
    fitted, start = measuring.fit(), time.perf_counter()
    best = measuring.calibrate(fitted, calibration)
    print(f"\nCalibrated in {time.perf_counter() - start:.1f} s: {len(fitted.pairs):,} pairs, {len(best.pairs):,} kept")
    token = measuring.calibrate(token_only(fitted), calibration)
    cluster = groups_of_sequences(measuring.results, test)
    start = time.perf_counter()
    found = gain_at_equal_coverage(token, best, measuring.layout, test, cluster, isolate_documents=measuring.isolated)
    print(f"Compared in {time.perf_counter() - start:.1f} s, {len(np.unique(cluster))} clusters")
    for measure in ("set_agreement", "recall_at_k"):
        print(f"\n{measure}: by token -> with pairs (gain, 95 % interval)")
        print("| coverage | " + " | ".join(f"layer {each.layer}" for each in found if each.measure == measure) + " |")
        print("|---" * (len(measuring.layout) + 1) + "|")
        for place in range(1, len(COVERAGES), 2):
            cells = [
                f"{each.baseline[place]:.3f} -> {each.best[place]:.3f} ({each.gain[place]:+.3f}, "
                f"{each.low[place]:+.3f} to {each.high[place]:+.3f})"
                for each in found
                if each.measure == measure
            ]
            print(f"| {COVERAGES[place]:.1f} | " + " | ".join(cells) + " |", flush=True)


def positions_alone(measuring: Measuring) -> None:
    """What tables by the class of the position alone could do, on the first test half."""
    starts = np.array([0, 1, 2, 4, 8, 16, 32, 64, 128])
    made, (_, test) = token_only(measuring.fit()), measuring.splits[0]
    print("\nDecisions of tokens without an entry: share, agreement by the position's class, by the row for everything")
    agreed = []
    for layer, shape in enumerate(measuring.layout.layers):
        fitting, held_out = (
            read_decisions(paths, layer, shape.experts, shape.top_k, measuring.isolated)
            for paths in (measuring.fitted_on, test)
        )
        of_class = [np.searchsorted(starts, each.position, side="right") - 1 for each in (fitting, held_out)]
        sums = ExpertSums.of_decisions(of_class[0], fitting.experts, fitting.weights.astype(float), shape.experts)
        by_class = fit_entries(sums, shape.experts, shape.top_k, None).experts[of_class[1]]
        row = made.any_row(rows_of(made, held_out))[layer].numpy()
        by_row = agreement_scores(made, layer, measuring.layout, held_out, row, "set_agreement")
        none = row == len(made.present[layer]) - 1
        score = set_agreement(by_class, held_out.experts)
        print(f"layer {layer}: {none.mean():.4f}, {score[none].mean():.3f}, {by_row[none].mean():.3f}")
        agreed.append([by_row[of_class[1] == each].mean() for each in range(len(starts))])
    print("\nAgreement of token rows by first position of the class\n| layer | " + " | ".join(map(str, starts)) + " |")
    print("|---" * (len(starts) + 1) + "|")
    for layer, values in enumerate(agreed):
        print(f"| {layer} | " + " | ".join(f"{value:.3f}" for value in values) + " |", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    measured = Measuring(Path(sys.argv[1]), Path(sys.argv[2]), seeds=3)
    gains(measured)
    positions_alone(measured)
    variants(measured)
