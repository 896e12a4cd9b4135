import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from var_core.config.models import DemoModel
from var_core.corpus.documents import read_documents
from var_core.errors import VarError
from var_core.files import read_json
from var_core.models.demo import train_demo_model
from var_core.models.folder import max_positions
from var_core.models.loading import load_base_model, load_causal_model
from var_core.models.perplexity import score_sequences

CONFIG = DemoModel(
    source="demo",
    corpus="topics",
    vocabulary=384,
    layers=2,
    hidden=16,
    intermediate=24,
    heads=2,
    experts=4,
    sequence_length=32,
    max_position=64,
    batch_sequences=4,
    steps=120,
    learning_rate=0.02,
    evaluate_tokens=2000,
)


@pytest.fixture(scope="module")
def trained(documents: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("models") / "tiny"
    train_demo_model("tiny", CONFIG, documents, output, "c0de")
    return output


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_folder_is_complete_and_nothing_else_is_left(trained: Path) -> None:
    assert set(contents(trained)) == {
        "config.json",
        "generation_config.json",
        "model.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "training.csv",
        "training.json",
    }
    assert not (trained / ".state").exists()


def test_model_is_loaded_like_any_other(trained: Path) -> None:
    base = load_base_model(trained / "model.json", CONFIG, "cpu")
    causal = load_causal_model(trained / "model.json", CONFIG, "cpu")
    assert (base.name, base.revision, base.vocabulary) == ("tiny", None, 384)
    assert base.max_positions == max_positions(trained) == 64
    tokens = torch.arange(20)[None]
    assert torch.equal(base.model(tokens).last_hidden_state, causal.model.model(tokens).last_hidden_state)


def test_model_generates(trained: Path) -> None:
    model = load_causal_model(trained / "model.json", CONFIG, "cpu").model
    tokenizer = AutoTokenizer.from_pretrained(trained, local_files_only=True)
    prompt = tokenizer("The value of", return_tensors="pt")
    generated = model.generate(**prompt, max_new_tokens=5, do_sample=False, pad_token_id=0)
    assert generated.shape[1] <= prompt["input_ids"].shape[1] + 5
    assert tokenizer.decode(generated[0]).startswith("The value of")


def test_curve_and_facts_agree(trained: Path) -> None:
    with (trained / "training.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    facts = read_json(trained / "training.json")
    assert list(rows[0]) == ["step", "tokens", "loss", "load_balancing_loss", "learning_rate"]
    assert [int(row["step"]) for row in rows] == list(range(1, 121))
    assert int(rows[-1]["tokens"]) == facts["tokens"] == 120 * 4 * 32
    assert np.mean([float(row["loss"]) for row in rows[-10:]]) < float(rows[0]["loss"]) - 1
    model = load_causal_model(trained / "model.json", CONFIG, "cpu").model
    assert facts["parameters"] == sum(weight.numel() for weight in model.parameters())
    assert facts["config"] == json.loads(CONFIG.model_dump_json())
    assert facts["corpus"]["name"] == "topics" and facts["code"] == "c0de"
    assert len(facts["expert_load"]) == 2


def test_perplexity_is_of_unseen_text_and_can_be_recomputed(trained: Path, documents: Path) -> None:
    facts = read_json(trained / "training.json")["heldout"]
    tokenizer = AutoTokenizer.from_pretrained(trained, local_files_only=True)
    ids, owners = [], []
    for batch in read_documents(documents, "heldout"):
        for row in batch.to_pylist():
            tokens = [tokenizer.bos_token_id, *tokenizer(row["text"], add_special_tokens=False)["input_ids"]]
            ids += tokens
            owners += [row["document"]] * len(tokens)
    sequences, kept = len(ids) // 32, 2000 // 32
    chosen = (2 * np.arange(kept) + 1) * sequences // (2 * kept)
    packed = [np.array(values[: sequences * 32]).reshape(-1, 32)[chosen] for values in (ids, owners)]
    scores = score_sequences(load_causal_model(trained / "model.json", CONFIG, "cpu").model, *packed, 16)
    assert facts["predicted_tokens"] == scores.predicted.sum()
    assert facts["perplexity"]["model"] == pytest.approx(scores.perplexity, rel=1e-5)
    assert facts["perplexity"]["model"] < facts["perplexity"]["unigram"]
    assert facts["domains"]["reference"]["perplexity"] == facts["perplexity"]


def test_interrupted_by_a_kill_it_ends_with_the_same_bytes(trained: Path, documents: Path, tmp_path: Path) -> None:
    output = tmp_path / "tiny"
    program = (
        "import sys, torch; torch.set_num_threads(1)\n"
        "from pathlib import Path\n"
        "from var_core.config.models import DemoModel\n"
        "from var_core.models.demo import train_demo_model\n"
        "config = DemoModel.model_validate_json(sys.argv[1])\n"
        "train_demo_model('tiny', config, Path(sys.argv[2]), Path(sys.argv[3]), 'c0de')\n"
    )
    command = [sys.executable, "-c", program, CONFIG.model_dump_json(), str(documents), str(output)]
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
    checkpoint = output / ".state" / "checkpoint.safetensors"
    deadline = time.monotonic() + 60
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it had finished, or failed, before it could be killed"
    assert checkpoint.exists() and not (output / "model.json").exists()
    train_demo_model("tiny", CONFIG, documents, output, "c0de")
    assert contents(output) == contents(trained)


def test_other_settings_replace_an_earlier_model(documents: Path, tmp_path: Path) -> None:
    quick = CONFIG.model_copy(update={"steps": 2})
    train_demo_model("tiny", quick, documents, tmp_path / "tiny", "c0de")
    first = contents(tmp_path / "tiny")
    train_demo_model("tiny", quick.model_copy(update={"seed": 1}), documents, tmp_path / "tiny", "c0de")
    second = contents(tmp_path / "tiny")
    assert first.keys() == second.keys()
    assert {name for name in first if first[name] != second[name]} == {
        "model.json",
        "model.safetensors",
        "training.csv",
        "training.json",
    }


def test_too_little_text_names_the_key(documents: Path, tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"sequence_length": 100_000, "max_position": 100_000})
    with pytest.raises(VarError, match=r"corpora\.topics\.splits\.train: \d+ tokens do not fill one sequence"):
        train_demo_model("tiny", config, documents, tmp_path / "tiny", "c0de")
    assert not (tmp_path / "tiny" / "model.json").exists()
