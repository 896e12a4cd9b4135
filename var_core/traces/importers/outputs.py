"""What the import stage is to do, and the files that it writes: those of the corpus and capture stages."""

import importlib.metadata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from var_core.config.corpus import SplitName, TraceCorpus
from var_core.config.models import TraceModel
from var_core.files import digest_of, write_json
from var_core.models.folder import read_record
from var_core.parquet import write_batches, write_table
from var_core.traces.importers.documents import DocumentTable
from var_core.traces.importers.recording import Shape
from var_core.traces.importers.token_counts import Tables


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
    max_state_bytes : int or None
        Memory that statistics by token id may take before they are put aside and started anew; None: what it takes.
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
    max_state_bytes: int | None = None

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
        return Shape(model.experts, model.top_k, model.layers, model.moe_layers, self.model_name, model.vocabulary)


class OutputFiles:
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
