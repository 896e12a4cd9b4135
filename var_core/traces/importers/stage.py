"""The import stage: recorded routing becomes the files that corpus and capture stages make of text and a model."""

import tempfile
from collections import deque
from pathlib import Path

from var_core.errors import VarError
from var_core.parquet import write_batches
from var_core.progress import Progress
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
        with tempfile.TemporaryDirectory(dir=task.capture_folder, prefix=".import-") as folder:
            _import_decisions(task, Path(folder))


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
    files = OutputFiles(task, found.layers, documents.digest)
    numbers = dict.fromkeys(scratch.shards, 0)
    with Progress(found.tokens, "token", f"count {task.run}") as progress:
        for split, contents in scratch.shards.items():
            for number, content in enumerate(contents):
                traced = split in task.traced
                job = ShardCount(task, found, content, numbers[split], traced, progress)
                record = files.provenance(split, number, content.digest.hexdigest(), content.tokens)
                if traced:
                    write_batches(files.path(split, number, "trace"), TRACE, job.rows(), record)
                else:
                    deque(job.rows(), maxlen=0)
                files.write_tables(split, number, job.tables, record)
                numbers[split] += sum(cell.sequences for cell in content.cells.values())
    files.write_corpus(recorded_vocabulary(task.model, found.token_ids, found.vocabulary), documents)
