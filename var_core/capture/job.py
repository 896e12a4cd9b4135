"""Capturing one shard: the micro-shards that are not there yet, one after another, then the shard's files."""

import functools
import logging
import shutil
from pathlib import Path
from typing import Any

from var_core.capture.lock import HeldLockError, ShardLock
from var_core.capture.memory import out_of_memory_in_one_line
from var_core.capture.micro_shard import MicroShardCapture, check_nonfinite, nonfinite_of
from var_core.capture.outputs import CaptureOutputs, MicroShardOutputs, assemble, kept_under_other_plans
from var_core.capture.plan import micro_shard_digest
from var_core.capture.stopping import StopRequest
from var_core.capture.subject import Subject
from var_core.config.capture import CaptureConfig
from var_core.config.models import ModelConfig
from var_core.corpus.shards import MicroShard, TokenShard
from var_core.errors import VarError
from var_core.models.folder import read_record
from var_core.parquet import read_provenance
from var_core.progress import Progress

_LOGGER = logging.getLogger(__name__)


def capture_shard(
    shard: Path,
    shards: int,
    model_record: Path,
    model_config: ModelConfig,
    config: CaptureConfig,
    outputs: CaptureOutputs,
    code: str,
    seconds: float | None = None,
) -> None:
    """Capture the routing of one shard of sequences.

    The shard's micro-shards are captured one by one and kept. One that is there already, whichever job of whatever
    number of shards captured it, is not captured again; if all are, the model is not even loaded.

    Interrupted, it continues from its last checkpoint when called again with the same arguments: nothing is
    counted twice, and the files are byte for byte those of an undisturbed run (on the CPU, with the same number
    of threads, where memory did not run out: a batch that had to be halved may differ in the last digits of floats).

    Memory does not grow with the shard: its tokens are read a row group (of at most about a million tokens) at a time.
    What a model's vocabulary and layers need for statistics comes on top, see ``capture.max_state_mb``; so do up to a
    million trace rows.

    Parameters
    ----------
    shard : Path
        Token shard written by the corpus stage.
    shards : int
        Number of shards of its split.
    model_record : Path
        The model's ``model.json``.
    model_config : ModelConfig
        How to load it, and what it is expected to be.
    config : CaptureConfig
        How to capture.
    outputs : CaptureOutputs
        Where the files go.
    code : str
        Digest of the stage's code.
    seconds : float, optional
        Time that the job has, from now; it ends ``capture.deadline_margin_s`` before, with a checkpoint.

    Raises
    ------
    VarError
        If the shard does not fit the model, the model is not supported, more logits than allowed are not finite,
        memory does not suffice for one sequence, the disk is full, another process captures a micro-shard, or the job
        was stopped by its deadline, SIGTERM or SIGUSR1 before it was done.
    """
    stop = StopRequest(seconds, config.deadline_margin_s)
    job = _Job(TokenShard(shard), model_record, model_config, config, outputs, code)
    with stop:
        job.capture(stop)
    job.assemble(shards)


class _Job:
    """The capture of one shard."""

    def __init__(
        self,
        tokens: TokenShard,
        model_record: Path,
        model_config: ModelConfig,
        config: CaptureConfig,
        outputs: CaptureOutputs,
        code: str,
    ) -> None:
        self._tokens, self._config, self._outputs = tokens, config, outputs
        self._model = (model_record, model_config)
        self._code = code
        self._subject: Subject | None = None
        self._nonfinite_of: dict[str, list[int]] = {}
        split, record = tokens.provenance["split"], read_record(model_record)
        self._micro_shards: list[tuple[MicroShard, MicroShardOutputs]] = []
        for each in tokens.micro_shards:
            digest = micro_shard_digest(tokens, each, record, model_config, config, code, outputs.trace)
            self._micro_shards.append((each, outputs.micro_shard(split, each.first, digest)))

    def capture(self, stop: StopRequest) -> None:
        """Capture the micro-shards that are not whole; those that somebody else is at come last."""
        provenance = self._tokens.provenance
        title = f"capture {provenance['run']} {provenance['split']} {provenance['shard']}"
        missing = [item for item in self._micro_shards if not item[1].are_whole()]
        _LOGGER.info("%d of %d micro-shards to capture", len(missing), len(self._micro_shards))
        for other in self._others() if missing else ():
            if other.is_dir():
                _LOGGER.warning("%s: a checkpoint of another plan; not used, removed when the shard is whole", other)
        left = sum(self._tokens_in(each) for each, _ in missing)
        with Progress(self._tokens.tokens, "token", title, self._tokens.tokens - left) as bar:
            held = []
            for item in missing:
                try:
                    self._capture_one(*item, bar, stop, wait_s=0)
                except HeldLockError as error:
                    _LOGGER.info("%s (it comes last)", error)
                    held.append(item)
            for item in held:
                self._capture_one(*item, bar, stop, wait_s=self._config.lock_wait_s)

    def assemble(self, shards: int) -> None:
        """Write the shard's files, unless another job has just done so."""
        records = [read_provenance(each.path("layer_stats")) for _, each in self._micro_shards]
        self._check_together(records)
        shared = {key: value for key, value in records[0].items() if key not in ("first", "content", "tokens")}
        provenance: dict[str, Any] = {
            **shared,
            "shard": self._tokens.provenance["shard"],
            "shards": shards,
            "content": self._tokens.provenance["content"],
            "tokens": self._tokens.tokens,
        }
        with ShardLock(self._outputs.lock, self._config.lock_stale_s, self._config.lock_wait_s) as lock:
            self._outputs.remove_asides()
            if not _were_made_from(self._outputs, provenance):
                assemble(self._outputs, [each for _, each in self._micro_shards], provenance, lock.check)
            lock.check()
            for other in self._others():
                if other.is_dir():
                    shutil.rmtree(other, ignore_errors=True)
                else:
                    other.unlink(missing_ok=True)

    def _others(self) -> list[Path]:
        """What is kept of these sequences under other plans; one look at the folder for all of them."""
        (first, outputs), (last, _) = self._micro_shards[0], self._micro_shards[-1]
        sequences = range(first.first, last.first + last.stop - last.start)
        own = {each.stem for _, each in self._micro_shards}
        return kept_under_other_plans(outputs.folder, self._tokens.provenance["split"], sequences, own)

    def _capture_one(
        self, micro_shard: MicroShard, outputs: MicroShardOutputs, bar: Progress, stop: StopRequest, wait_s: float
    ) -> None:
        """Capture a micro-shard, unless another process has done so by the time this one may."""
        # Before the model is loaded, so that a process that has to wait holds no memory meanwhile.
        look = functools.partial(stop.check, bar.done, bar.total, bar.description)
        with ShardLock(outputs.lock, self._config.lock_stale_s, wait_s, look) as lock:
            if outputs.are_whole():
                bar.found_done(self._tokens_in(micro_shard))
                return
            if self._subject is None:
                with out_of_memory_in_one_line("loading the model and trying it on 1 sequence"):
                    self._subject = Subject(self._tokens, *self._model, self._config, self._code)
            capture = MicroShardCapture(
                self._tokens, micro_shard, self._subject, self._config, outputs, lock, self._nonfinite()
            )
            with out_of_memory_in_one_line("keeping the statistics or putting them on disk"):
                capture.run(bar, stop)

    def _nonfinite(self) -> list[int]:
        """Decisions that are not finite in the micro-shards that are whole, by layer; each is read once."""
        for _, each in self._micro_shards:
            if each.stem not in self._nonfinite_of and each.are_whole():
                self._nonfinite_of[each.stem] = nonfinite_of(each)
        return [sum(column) for column in zip(*self._nonfinite_of.values(), strict=True)]

    def _check_together(self, records: list[dict[str, Any]]) -> None:
        """Check what micro-shards, captured at different times, are only together."""
        for (_, outputs), record in zip(self._micro_shards, records, strict=True):
            if record["plan"] != records[0]["plan"]:
                raise VarError(
                    f"{outputs.path('layer_stats')}: was captured under another plan than the other micro-shards of "
                    "its shard; delete it and run the capture stage again"
                )
        paths = [site["path"] for site in records[0]["sites"]]
        check_nonfinite(self._nonfinite(), paths, self._tokens, self._config)

    def _tokens_in(self, micro_shard: MicroShard) -> int:
        return (micro_shard.stop - micro_shard.start) * self._tokens.length


def _were_made_from(outputs: CaptureOutputs, provenance: dict[str, Any]) -> bool:
    """Whether all files are there and were made from exactly this.

    Snakemake deletes them before a job starts, so they are those of a job that it lost sight of.
    """
    return all(path.is_file() and read_provenance(path) == provenance for path in outputs.paths)
