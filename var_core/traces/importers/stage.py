"""The import stage: recorded routing becomes the files that corpus and capture stages make of text and a model."""

import fcntl
import os
import shutil
import tempfile
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from var_core.errors import VarError
from var_core.parquet import write_batches
from var_core.progress import Progress
from var_core.statistics.streaming import write_merged
from var_core.statistics.tables import SCHEMAS
from var_core.traces.importers.aggregates import holds_sums, import_counts
from var_core.traces.importers.counting import Found, ShardCount
from var_core.traces.importers.documents import DocumentTable
from var_core.traces.importers.files import recordings
from var_core.traces.importers.outputs import ImportTask, OutputFiles
from var_core.traces.importers.recording import check_recording
from var_core.traces.importers.scratch import Scratch
from var_core.traces.importers.vocabulary import recorded_vocabulary
from var_core.traces.schema import TRACE

_STEPS = 1000
_PREFIX = ".import-"


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
    if holds_sums(task):
        import_counts(task)
    else:
        with _temporary_folder(task.capture_folder) as folder:
            _import_decisions(task, folder)


@contextmanager
def _temporary_folder(parent: Path) -> Iterator[Path]:
    """Make a folder for a while; those of processes that were killed are removed first.

    The system lets go of a process's lock on its folder when it dies, however it dies.
    """
    for left in parent.glob(f"{_PREFIX}*"):
        with _locked(left) as free:
            if free:
                shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=parent, prefix=_PREFIX) as folder, _locked(Path(folder)):
        yield Path(folder)


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Lock a folder if nobody else has; say whether."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield True
    finally:
        os.close(handle)


def _import_decisions(task: ImportTask, folder: Path) -> None:
    scratch = Scratch(folder, task.shards, task.corpus.heldout, task.model.experts)
    documents = DocumentTable(folder / "documents.arrow")
    found = Found()
    with Progress(_STEPS, "step", f"read {task.run}") as progress:
        for share_read, recording in recordings(task.corpus_name, task.corpus, task.shape):
            if len(recording.experts):
                check_recording(recording, task.shape)
                found.add(recording)
                number = documents.add(recording, scratch.split_of(recording.group))
                scratch.add(recording, number)
            progress.advance(int(share_read * _STEPS) - progress.done, f"{found.tokens} tokens")
        scratch.finish()
    if not found.tokens:
        raise VarError(f"corpora.{task.corpus_name}: its files hold no decisions")
    if not sum(content.tokens for content in scratch.shards["capture"]):
        raise VarError(
            f"corpora.{task.corpus_name}: all of its {found.tokens} tokens are held out, so there is nothing to count; "
            f"add files, or set corpora.{task.corpus_name}.heldout: 0 (now {task.corpus.heldout:g})"
        )
    files = OutputFiles(task, found.layers, documents.digest)
    numbers = dict.fromkeys(scratch.shards, 0)
    with Progress(found.tokens, "token", f"count {task.run}") as progress:
        for split, contents in scratch.shards.items():
            for number, content in enumerate(contents):
                record = files.provenance(split, number, content.digest.hexdigest(), content.tokens)
                output = {kind: files.path(split, number, kind) for kind in (*SCHEMAS, "trace")}
                parts = folder / f"parts-{split}-{number:05d}"
                job = ShardCount(task, found, content, numbers[split], parts, progress)
                _write_shard(job, split in task.traced, output, record)
                # Its state is as large as the vocabulary; the next one's must not come on top of it.
                del job
                shutil.rmtree(parts, ignore_errors=True)
                numbers[split] += sum(cell.sequences for cell in content.cells.values())
    files.write_corpus(recorded_vocabulary(task.model, found.token_ids, found.vocabulary), documents)


def _write_shard(job: ShardCount, traced: bool, output: dict[str, Path], record: dict[str, Any]) -> None:
    """Count a shard and write its files."""
    if traced:
        write_batches(output["trace"], TRACE, job.rows(traced), record)
    else:
        deque(job.rows(traced), maxlen=0)
    for kind, parts in job.parts.items():
        write_merged(kind, parts, output[kind], record)
