"""The import stage: recorded routing becomes the files that corpus and capture stages make of text and a model."""

import hashlib
import importlib.metadata
import logging
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from var_core.config.corpus import SplitName, TraceCorpus
from var_core.config.models import TraceModel
from var_core.corpus.files import matched_files
from var_core.errors import VarError
from var_core.files import digest_of, file_digest, write_json
from var_core.models.folder import read_record
from var_core.parquet import write_batches, write_table
from var_core.progress import Progress
from var_core.routing.batch import RoutedBatch, RouterLayout
from var_core.statistics.accumulator import Accumulator, TokenBatch
from var_core.statistics.merge import merge_tables
from var_core.statistics.tables import SCHEMAS
from var_core.traces.importers.documents import DocumentTable
from var_core.traces.importers.files import recordings
from var_core.traces.importers.recording import Recording, Shape, check_recording
from var_core.traces.importers.rows import recorded_rows
from var_core.traces.importers.scratch import Scratch, ShardContent
from var_core.traces.importers.sglang import is_stat_dump, stat_counts
from var_core.traces.importers.token_counts import Tables, layer_table, read_token_counts, with_nulls
from var_core.traces.importers.vocabulary import recorded_vocabulary
from var_core.traces.schema import TRACE

MAX_STATE_BYTES = 1 << 30
"""Memory that the statistics may take before they are put aside and started anew."""
_STEPS = 1000
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImportTask:
    """What is to be imported, and where to.

    Attributes
    ----------
    run : str
        ``{model}/{corpus}``.
    model, corpus
        Their settings.
    model_record : Path
        The model's ``model.json``.
    shards : dict
        Split -> number of shards.
    traced : tuple of str
        Splits whose decisions are also written one by one.
    seed : int
        Of the within-sequence shuffle.
    corpus_folder, capture_folder : Path
        Folders for the documents, and for the statistics of the shards.
    code : str
        Digest of the stage's code.
    """

    run: str
    model: TraceModel
    corpus: TraceCorpus
    model_record: Path
    shards: dict[SplitName, int]
    traced: tuple[str, ...]
    seed: int
    corpus_folder: Path
    capture_folder: Path
    code: str

    @property
    def model_name(self) -> str:
        """Name of the model in the configuration."""
        return self.run.split("/")[0]

    @property
    def corpus_name(self) -> str:
        """Name of the corpus in the configuration."""
        return self.run.split("/")[1]

    @property
    def shape(self) -> Shape:
        """What the configuration says of the model."""
        model = self.model
        return Shape(model.experts, model.top_k, model.layers, model.moe_layers, self.model_name)


def import_trace(task: ImportTask) -> None:
    """Import the recorded routing of a run.

    Decisions are read twice, once from the user's files and once from a copy that is sorted by split, shard and
    domain; neither time are more than a few thousand tokens in memory. Counts that were added up already go into the
    statistics as they are, all into the capture split and a domain a shard: only whole domains are independent of
    each other there, so intervals come from leaving a domain out.

    Raises
    ------
    VarError
        If a file is not what the configuration says; the message names file and line or row. Nothing is left behind.
    """
    task.capture_folder.mkdir(parents=True, exist_ok=True)
    if task.corpus.format == "token_counts" or _is_stat(task):
        _import_counts(task)
    else:
        with tempfile.TemporaryDirectory(dir=task.capture_folder, prefix=".import-") as folder:
            _import_decisions(task, Path(folder))


def _is_stat(task: ImportTask) -> bool:
    if task.corpus.format != "sglang":
        return False
    matched = matched_files(task.corpus_name, task.corpus.domains)
    return is_stat_dump(next(iter(matched.values()))[0][0])


def _import_decisions(task: ImportTask, folder: Path) -> None:
    scratch = Scratch(folder, task.shards, task.corpus.heldout, task.model.experts)
    documents = DocumentTable(folder / "documents.arrow")
    found = _Found()
    with Progress(_STEPS, "step", f"read {task.run}") as progress:
        for share_read, recording in recordings(task.corpus_name, task.corpus, task.shape):
            if len(recording.experts):
                check_recording(recording, task.shape)
                found.add(recording, task)
                number = documents.add(recording, scratch.split_of(recording.group))
                scratch.add(recording, number)
            progress.advance(int(share_read * _STEPS) - progress.done, f"{found.tokens} tokens")
        scratch.finish()
    if not found.tokens:
        raise VarError(f"corpora.{task.corpus_name}: its files hold no decisions")
    files = _Files(task, found.layers, documents.digest)
    numbers = {split: 0 for split in scratch.shards}
    with Progress(found.tokens, "token", f"count {task.run}") as progress:
        for split, contents in scratch.shards.items():
            for number, content in enumerate(contents):
                job = _Count(task, found, content, numbers[split], progress)
                record = files.provenance(split, number, content.digest.hexdigest(), content.tokens)
                if split in task.traced:
                    write_batches(files.path(split, number, "trace"), TRACE, job.rows(), record)
                else:
                    for _ in job.rows():
                        pass
                files.write_tables(split, number, job.tables, record)
                numbers[split] += sum(cell.sequences for cell in content.cells.values())
    files.write_corpus(recorded_vocabulary(task.model, found.token_ids, found.vocabulary), documents)


@dataclass
class _Found:
    """What all recordings of a run have in common."""

    tokens: int = 0
    layers: int = 0
    weights: bool = False
    has_token_ids: bool = False
    largest: int = -1

    def add(self, recording: Recording, task: ImportTask) -> None:
        """Take note of a recording; refuse one that has other parts than those before it."""
        parts = (recording.experts.shape[1], recording.weights is not None, recording.token_ids is not None)
        if not self.tokens:
            self.layers, self.weights, self.has_token_ids = parts
        names = ("layers", "weights", "token ids")
        for name, have, had in zip(names, parts, (self.layers, self.weights, self.has_token_ids), strict=True):
            if have != had:
                words = f"{have} {name}, but {had}" if name == "layers" else f"{'' if have else 'no '}{name}, unlike"
                raise VarError(f"{recording.place(0, 0)}: has {words} before it; give them a corpus of their own")
        self.tokens += len(recording.experts)
        if recording.token_ids is not None:
            self.largest = max(self.largest, int(recording.token_ids.max()))
            limit = task.model.vocabulary
            if limit is not None and self.largest >= limit:
                token = int(recording.token_ids.argmax())
                raise VarError(
                    f"{recording.place(token, 0)}: token id {self.largest} is outside the {limit} of "
                    f"models.{task.model_name}.vocabulary"
                )

    @property
    def vocabulary(self) -> int:
        """Token ids up to the largest; 0 where none were recorded."""
        return self.largest + 1

    @property
    def token_ids(self) -> range:
        """All of them."""
        return range(self.vocabulary)


class _Count:
    """Statistics of one shard; its trace rows are a by-product."""

    def __init__(
        self, task: ImportTask, found: _Found, content: ShardContent, first_sequence: int, progress: Progress
    ) -> None:
        self._task, self._content, self._progress = task, content, progress
        self._first = first_sequence
        layout = RouterLayout.uniform(found.layers, task.model.experts, task.model.top_k)
        self._accumulator = Accumulator(
            layout, found.vocabulary, torch.device("cpu"), task.seed, max_state_bytes=MAX_STATE_BYTES
        )
        self.tables: Tables = {kind: schema.empty_table() for kind, schema in SCHEMAS.items()}

    def rows(self) -> Iterator[pa.RecordBatch]:
        """Count sequence after sequence, and yield the rows of each."""
        current: str | None = None
        for index, (domain, sequence) in enumerate(self._content.sequences()):
            token_ids = None if sequence.token_ids is None else torch.from_numpy(sequence.token_ids)
            if current is not None and (
                domain != current or (token_ids is not None and not self._accumulator.has_room(token_ids))
            ):
                self._put_aside(current)
            current = domain
            self._accumulator.update(
                TokenBatch(token_ids=token_ids, continues=torch.from_numpy(sequence.continues), sequences=1),
                RoutedBatch(
                    logits=None,
                    experts=torch.from_numpy(sequence.experts).transpose(0, 1),
                    weights=None if sequence.weights is None else torch.from_numpy(sequence.weights).transpose(0, 1),
                ),
                index,
            )
            self._progress.advance(len(sequence.position))
            yield recorded_rows(self._first + index, domain, sequence, self._task.model.experts)
        if current is not None:
            self._put_aside(current)

    def _put_aside(self, domain: str) -> None:
        for kind, table in self._accumulator.tables(domain).items():
            self.tables[kind] = merge_tables(kind, [self.tables[kind], table])
        self._accumulator.reset()


def _import_counts(task: ImportTask) -> None:
    """Statistics from sums: no decisions, so nothing is held out and there is no trace."""
    contents: list[list[tuple[str, Tables]]] = [[] for _ in range(task.shards["capture"])]
    domains: dict[str, Tables] = {}
    matched = matched_files(task.corpus_name, task.corpus.domains)
    digest = digest_of([[name, file_digest(path)] for files in matched.values() for path, name in files])
    with Progress(len(matched), "domain", f"read {task.run}") as progress:
        for domain, files in matched.items():
            for part, tables in _counted(task, files, domain):
                known = domains.get(part)
                domains[part] = tables if known is None else {k: merge_tables(k, [known[k], tables[k]]) for k in tables}
            progress.advance(1)
    for place, item in enumerate(domains.items()):
        contents[place % len(contents)].append(item)
    layers = sorted({layer for tables in domains.values() for layer in tables["layer_stats"]["layer"].to_pylist()})
    _require_all_layers(task, domains, layers)
    files_out = _Files(task, len(layers), digest, layers)
    for split, count in task.shards.items():
        for number in range(count):
            parts = contents[number] if split == "capture" else []
            merged = {
                kind: merge_tables(kind, [schema.empty_table(), *(tables[kind] for _, tables in parts)])
                for kind, schema in SCHEMAS.items()
            }
            own = digest_of([digest, split, [domain for domain, _ in parts]])
            record = files_out.provenance(split, number, own, sum(_tokens(tables) for _, tables in parts))
            files_out.write_tables(split, number, merged, record)
            if split in task.traced:
                write_table(files_out.path(split, number, "trace"), TRACE.empty_table(), record)
    seen = sorted({token for tables in domains.values() for token in tables["token_stats"]["token_id"].to_pylist()})
    vocabulary = recorded_vocabulary(task.model, seen, seen[-1] + 1 if seen else 0)
    files_out.write_corpus(vocabulary, None)


def _counted(task: ImportTask, files: list[tuple[Path, str]], domain: str) -> Iterator[tuple[str, Tables]]:
    if task.corpus.format == "token_counts":
        yield from read_token_counts(files, domain, task.shape, task.corpus.recorded_model)
        return
    for path, _ in files:
        chosen = stat_counts(path, task.shape)
        empty = {kind: with_nulls({"layer": []}, domain, SCHEMAS[kind]) for kind in ("token_stats", "expert_counts")}
        yield domain, {**empty, "layer_stats": layer_table(dict(enumerate(chosen)), domain, task.model.top_k)}


def _tokens(tables: Tables) -> int:
    return max(tables["layer_stats"]["tokens"].to_pylist(), default=0)


def _require_all_layers(task: ImportTask, domains: dict[str, Tables], layers: list[int]) -> None:
    if task.model.layers is not None and len(layers) != task.model.layers:
        raise VarError(
            f"corpora.{task.corpus_name}: {len(layers)} layers are recorded, but models.{task.model_name}.layers is "
            f"{task.model.layers}"
        )
    for domain, tables in domains.items():
        tokens = dict(zip(*(tables["layer_stats"][name].to_pylist() for name in ("layer", "tokens")), strict=True))
        if sorted(tokens) != layers or len(set(tokens.values())) > 1:
            raise VarError(
                f"corpora.{task.corpus_name}: domain {domain} has {tokens} tokens by layer; every domain must have the "
                f"same number at each of the layers {layers}"
            )


class _Files:
    """Writes the files of the stage, all with the same account of what they were made from."""

    def __init__(self, task: ImportTask, layers: int, corpus_digest: str, numbers: list[int] | None = None) -> None:
        self._task = task
        model = read_record(task.model_record)
        recorded = task.model.moe_layers or tuple(range(layers))
        shown = numbers or list(range(layers))
        self._shared: dict[str, Any] = {
            "run": task.run,
            "model": {"name": model.name, "revision": model.revision, "digest": model.digest},
            "corpus": {"name": task.corpus_name, "digest": corpus_digest},
            "config": {"corpus": task.corpus.model_dump(mode="json", exclude={"domains"}), "seed": task.seed},
            "sites": [
                {
                    "layer": layer,
                    "path": f"recorded layer {recorded[place] if numbers is None else layer}",
                    "experts": task.model.experts,
                    "top_k": task.model.top_k,
                }
                for place, layer in enumerate(shown)
            ],
            "sequence_length": None,
            "code": task.code,
            "versions": {name: importlib.metadata.version(name) for name in ("torch", "pyarrow")},
        }

    def provenance(self, split: SplitName, shard: int, content: str, tokens: int) -> dict[str, Any]:
        """Account of one shard."""
        shared = {**self._shared, "split": split, "shards": self._task.shards[split]}
        own = {"stage": "capture", "plan": digest_of(shared), "shard": shard, "content": content, "tokens": tokens}
        return {**own, **shared}

    def path(self, split: SplitName, shard: int, kind: str) -> Path:
        """Path of a file of a shard."""
        return self._task.capture_folder / f"{split}-{shard:05d}.{kind}.parquet"

    def write_tables(self, split: SplitName, shard: int, tables: Tables, record: dict[str, Any]) -> None:
        """Write the statistics of a shard."""
        for kind, table in tables.items():
            write_table(self.path(split, shard, kind), table, record)

    def write_corpus(self, vocabulary: pa.Table, documents: DocumentTable | None) -> None:
        """Write vocabulary, documents and manifest."""
        base = {"stage": "corpus", **{key: value for key, value in self._shared.items() if key != "sites"}}
        folder = self._task.corpus_folder
        write_table(folder / "vocabulary.parquet", vocabulary, base)
        batches, summary = (iter(()), {}) if documents is None else (documents.batches(), documents.summary())
        write_batches(folder / "documents.parquet", DocumentTable.SCHEMA, batches, base)
        write_json(folder / "manifest.json", {**base, "splits": summary})
