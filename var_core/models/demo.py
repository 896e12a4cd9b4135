"""The demo model: a small Mixtral trained by the workflow itself on a corpus's train split."""

import csv
import importlib.metadata
import io
import logging
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from var_core.config.corpus import SplitName
from var_core.config.models import DemoModel
from var_core.corpus.packing import PackedDomain, pack
from var_core.corpus.tokenise import DocumentTokenizer, tokenised_documents
from var_core.corpus.tokenizer import train_tokenizer
from var_core.errors import VarError
from var_core.files import digest_of, file_digest, write_json, write_text
from var_core.models.comparison import compare_with_baselines
from var_core.models.folder import ModelRecord, folder_digest, write_record
from var_core.models.packed import Sequences
from var_core.models.training import Training, TrainingStep, build_model
from var_core.parquet import read_provenance
from var_core.progress import Progress

_LOGGER = logging.getLogger(__name__)
_SPLITS: tuple[SplitName, ...] = ("train", "heldout")
_LIBRARIES = ("numpy", "tokenizers", "torch", "transformers")


def train_demo_model(name: str, config: DemoModel, documents: Path, output: Path, code: str) -> None:
    """Train tokenizer and model, compare the model with n-gram baselines, and save both as a Hugging Face folder.

    Writes into `output` the model's folder (``config.json``, ``model.safetensors``, ``tokenizer.json``, …);
    ``training.csv``, a row a step (see :class:`var_core.models.training.TrainingStep`); ``training.json``, held-out
    perplexities and what they depend on; and, last, ``model.json``. While it works it keeps checkpoints in
    ``output/.state``: called again after an interruption it goes on from the last one, to the same files.

    Parameters
    ----------
    name : str
        The model's name in the configuration.
    config : DemoModel
        Its size and training.
    documents : Path
        ``documents.parquet`` of the corpus.
    output : Path
        ``results/models/{name}``.
    code : str
        Digest of the stage's code.

    Raises
    ------
    VarError
        If the train or held-out split has too little text for one sequence.
    """
    state = output / ".state"
    finished = state / "finished"
    shutil.rmtree(finished, ignore_errors=True)
    source = read_provenance(documents)
    versions = {library: importlib.metadata.version(library) for library in _LIBRARIES}
    key = digest_of([config.model_dump(mode="json"), file_digest(documents), code, versions])
    train_tokenizer(documents, config.vocabulary, finished)
    with tempfile.TemporaryDirectory(dir=state, prefix="tokens-") as scratch:
        tokenizer = DocumentTokenizer(finished)
        text, heldout = (
            _packed(documents, split, tokenizer, config, source["corpus"], Path(scratch, split)) for split in _SPLITS
        )
        vocabulary = len(tokenizer.tokenizer)
        model = build_model(config, vocabulary, tokenizer.boundary_id)
        curve = _train(name, model, Sequences(text), config, state / "checkpoint.safetensors", key)
        results = compare_with_baselines(model, text, heldout, vocabulary, config.evaluate_tokens, name)
    _log_perplexities(name, results["heldout"]["perplexity"])
    facts = {
        "model": name,
        "corpus": {"name": source["corpus"], "digest": source["digest"]},
        "parameters": model.num_parameters(),
        "vocabulary": vocabulary,
        "tokens": curve[-1].tokens,
        "seed": config.seed,
        "threads": torch.get_num_threads(),
        "config": config.model_dump(mode="json"),
        "code": code,
        "versions": versions,
    }
    model.save_pretrained(finished)
    write_text(finished / "training.csv", _csv(curve))
    write_json(finished / "training.json", {**facts, **results})
    _publish(finished, output)
    record = ModelRecord(name, config.source, output, None, folder_digest(output))
    write_record(output / "model.json", record, code, corpus=facts["corpus"])
    shutil.rmtree(state)


def _packed(
    documents: Path, split: SplitName, tokenizer: DocumentTokenizer, config: DemoModel, corpus: str, scratch: Path
) -> Mapping[str, PackedDomain]:
    packed = pack(tokenised_documents(documents, split, tokenizer), config.sequence_length, scratch)
    if not any(part.sequences for part in packed.values()):
        tokens = sum(len(part.tokens) for part in packed.values())
        raise VarError(
            f"corpora.{corpus}.splits.{split}: {tokens} tokens do not fill one sequence of {config.sequence_length}; "
            "raise this share, add documents, or lower the model's sequence_length"
        )
    return packed


def _train(
    name: str, model: Any, sequences: Sequences, config: DemoModel, checkpoint: Path, key: str
) -> list[TrainingStep]:
    training = Training(model, sequences, config, checkpoint, key)
    step_tokens = config.batch_sequences * config.sequence_length
    _LOGGER.info(
        "model %s: %d parameters, %d sequences to train on, %d threads",
        name, model.num_parameters(), len(sequences), torch.get_num_threads(),
    )  # fmt: skip
    done = len(training.curve) * step_tokens
    with Progress(config.steps * step_tokens, "token", f"train {name}", done=done) as progress:
        training.run(lambda step: progress.advance(step_tokens, f"loss {step.loss:.3f}"))
    return training.curve


def _log_perplexities(name: str, perplexity: Mapping[str, float]) -> None:
    _LOGGER.info(
        "held-out perplexity: %s %.1f, bigram %.1f, unigram %.1f",
        name, perplexity["model"], perplexity["bigram"], perplexity["unigram"],
    )  # fmt: skip
    if perplexity["model"] >= perplexity["bigram"]:
        _LOGGER.warning("%s is no better than a bigram model; train it on more text or for more steps", name)


def _csv(curve: list[TrainingStep]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(TrainingStep._fields)
    writer.writerows(curve)
    return text.getvalue()


def _publish(finished: Path, output: Path) -> None:
    """Move the finished files to where they are looked for; without ``model.json`` nobody reads a half of them."""
    (output / "model.json").unlink(missing_ok=True)
    usual = (finished / "training.json").stat().st_mode
    for path in sorted(finished.iterdir()):
        path.chmod(usual)  # weights are written for their owner's eyes only
        path.replace(output / path.name)
