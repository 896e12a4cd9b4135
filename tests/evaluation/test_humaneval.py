"""HumanEval: its tasks as recorded, and a tiny real model from prompt to verdict."""

import dataclasses
import gzip
import json
import os
import shlex
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, MixtralConfig, PreTrainedTokenizerFast

from policy_subject import Subject
from sandboxes import needs_sandbox
from var_core.corpus.tokenise import DocumentTokenizer
from var_core.errors import VarError
from var_core.evaluation.generation import GenerationSettings, cut, generate_completions
from var_core.evaluation.humaneval import compare_runs, evaluate, judge, read_run, write_run
from var_core.evaluation.humaneval_tasks import TaskSet, fetch_tasks, read_tasks
from var_core.evaluation.sandbox.program import Limits, Outcome
from var_core.files import read_json, write_json
from var_core.models.folder import read_record
from var_core.policy.settings import PolicySettings
from var_core.policy.store import Policy

ROOT = Path(__file__).parents[2]
FILE = Path(os.environ.get("VAR_SHARED_DATA", ROOT.parent / "shared" / "data")) / "HumanEval.jsonl.gz"
QUICK = Limits(wall_seconds=6, memory_bytes=256 << 20)

needs_file = pytest.mark.skipif(not FILE.is_file(), reason=f"{FILE} (recorded by others) is not there")

ROW = {
    "task_id": "Small/0",
    "prompt": 'def double(x):\n    """Twice x."""\n',
    "entry_point": "double",
    "canonical_solution": "    return 2 * x\n",
    "test": "def check(candidate):\n    assert candidate(3) == 6\n    assert candidate('a') == 'aa'\n",
}


def write_rows(path, rows):
    with gzip.open(path, "wt") if path.suffix == ".gz" else path.open("w") as stream:
        stream.writelines(f"{json.dumps(row)}\n" for row in rows)
    return path


def small_tasks(tmp_path, count=12):
    rows = [{**ROW, "task_id": f"Small/{number}"} for number in range(count)]
    return read_tasks(write_rows(tmp_path / "small.jsonl", rows))


def canonical(tasks):
    return [[task.canonical_solution] for task in tasks.tasks]


@pytest.fixture
def model():
    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=128, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, num_local_experts=4, num_experts_per_tok=2,
        bos_token_id=None, eos_token_id=0,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)


@pytest.fixture
def tokenizer():
    vocabulary = {"<end>": 0} | {chr(code): code for code in range(1, 128)}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    raw.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    raw.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<end>")


@needs_file
@needs_sandbox
@pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.slow), 16])
def test_canonical_solutions_pass_and_nothing_else_does(every, tmp_path):
    tasks = read_tasks(FILE)
    assert len(tasks.tasks) == 164
    tasks = TaskSet(tasks.tasks[::every], tasks.source)
    right = judge("canonical", tasks, canonical(tasks), workers=2)
    assert right.outcomes == {"passed": len(tasks.tasks)}, [s for s in right.samples if s.outcome != "passed"]
    empty = judge("empty", tasks, [[""] for _ in tasks.tasks], workers=2)
    wrong = judge("wrong", tasks, [["    return NotImplemented\n"] for _ in tasks.tasks], workers=2)
    assert empty.outcomes == wrong.outcomes == {"failed": len(tasks.tasks)}
    if every == 1:
        difference = compare_runs(right, empty)
        assert (difference.difference, difference.only_first, difference.only_second) == (-1, 164, 0)


@needs_file
def test_the_digest_is_that_of_the_tasks_and_not_of_the_file(tmp_path):
    rows = [json.loads(line) for line in gzip.decompress(FILE.read_bytes()).splitlines()]
    plain = read_tasks(write_rows(tmp_path / "plain.jsonl", rows))
    assert plain.digest == read_tasks(FILE).digest
    rows[7]["test"] += " "
    assert read_tasks(write_rows(tmp_path / "other.jsonl.gz", rows)).digest != plain.digest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": None}, "line 2 has no text in the field 'prompt'"),
        ({"test": 3}, "line 2 has no text in the field 'test'"),
        ({"canonical_solution": " "}, "line 2 has no text in the field 'canonical_solution'"),
        ({"entry_point": "f(); evil"}, "line 2 has the entry_point 'f\\(\\); evil', which is no name"),
        ({"entry_point": "treble"}, "line 2 has a prompt that does not define 'treble'"),
        ({"test": "assert True"}, "line 2 has a test that does not define check"),
        ({"task_id": "Small/0"}, "line 2 has the task_id 'Small/0' of an earlier one"),
    ],
)
def test_a_bad_row_is_one_line_with_its_number(change, message, tmp_path):
    path = write_rows(tmp_path / "tasks.jsonl", [ROW, {**ROW, "task_id": "Small/1", **change}])
    with pytest.raises(VarError, match=message) as error:
        read_tasks(path)
    assert "\n" not in str(error.value) and str(path) in str(error.value)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.jsonl", json.dumps(ROW).encode() + b"\n{,}\n", "line 2 is not JSON"),
        ("a.jsonl", b"\n[1]\n", "line 2 is not an object"),
        ("a.jsonl", b"\n\n", "holds no tasks"),
        ("a.jsonl", b"\xff\xfe\n", "cannot be read"),
        ("a.jsonl.gz", json.dumps(ROW).encode(), "cannot be read"),
        ("a.jsonl.gz", gzip.compress(json.dumps(ROW).encode() * 99)[:-20], "cannot be read"),
        ("b.jsonl", None, "no such file"),
    ],
)
def test_a_bad_file_is_one_line(name, data, message, tmp_path):
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(VarError, match=message) as error:
        read_tasks(tmp_path / name)
    assert "\n" not in str(error.value)


def test_a_folder_in_the_place_of_the_hub_gives_the_same_tasks(tmp_path):
    rows = [{**ROW, "task_id": f"Small/{number}"} for number in range(3)]
    (tmp_path / "data").mkdir()
    write_rows(tmp_path / "data" / "test.jsonl", rows)
    fetched = fetch_tasks("a" * 40, str(tmp_path / "data"))
    assert fetched.digest == read_tasks(tmp_path / "data" / "test.jsonl").digest
    assert fetched.revision == "a" * 40


def test_a_data_set_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(VarError, match="cannot be read at revision abc") as error:
        fetch_tasks("abc", str(tmp_path / "nowhere"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "body"),
    [
        ("    return 1\n\n\ndef other():\n    pass", "    return 1\n\n"),
        ("    if x:\n        return 1\nif __name__", "    if x:\n        return 1"),
        ("    # keep\n    return 1\n# drop", "    # keep\n    return 1"),
        ("    return 1\nprint(2)\nclass A", "    return 1"),
        (
            "    def inner(): pass\n    class A: pass\n    return 1",
            "    def inner(): pass\n    class A: pass\n    return 1",
        ),
    ],
)
def test_a_completion_ends_with_the_function(text, body):
    assert cut(text) == body


@needs_sandbox
def test_a_tiny_model_from_prompt_to_verdict(model, tokenizer, tmp_path):
    tasks = small_tasks(tmp_path)
    entered = []

    @contextmanager
    def inside():
        entered.append("in")
        yield
        entered.append("out")

    settings = GenerationSettings(samples=2, temperature=0.8, max_new_tokens=12, batch_size=5, seed=3)
    run = evaluate("plain", model, tokenizer, tasks, settings, inside(), {"model_digest": "abc"}, QUICK, workers=2)
    assert entered == ["in", "out"]
    assert (len(run.samples), run.samples_per_task, run.passed) == (24, 2, [0] * 12)
    assert run.outcomes == {"failed": 24}
    assert len({sample.completion for sample in run.samples}) > 12
    assert run.pass_at(2).value == 0 and run.pass_at(1).high < 0.3
    write_run(run, tmp_path / "run.json")
    assert read_run(tmp_path / "run.json") == run
    assert read_json(tmp_path / "run.json")["counts"] == {
        "tasks": 12, "samples": 24, "tasks_with_a_pass": 0, "failed": 24
    }  # fmt: skip


def test_greedy_completions_do_not_depend_on_the_batch_and_are_what_the_model_says(model, tokenizer):
    prompts = ["def f(x):\n", "def longer_name(first, second):\n    ", "x"]
    together = generate_completions(model, tokenizer, prompts, GenerationSettings(max_new_tokens=10, batch_size=3))
    alone = generate_completions(model, tokenizer, prompts, GenerationSettings(max_new_tokens=10, batch_size=1))
    assert together == alone
    ids = tokenizer(prompts[1])["input_ids"]
    for _ in range(10):
        ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] == 0:
            break
    whole = tokenizer.decode(ids, skip_special_tokens=True)
    assert together[1] == [cut(whole[len(prompts[1]) :])]


def test_samples_are_those_of_their_seed_and_leave_other_random_numbers_alone(model, tokenizer):
    settings = GenerationSettings(samples=3, temperature=1.0, top_p=0.9, max_new_tokens=10, batch_size=2, seed=1)
    torch.manual_seed(5)
    first = generate_completions(model, tokenizer, ["def f():\n", "x = "], settings)
    after = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(1))
    assert generate_completions(model, tokenizer, ["def f():\n", "x = "], settings) == first
    other = dataclasses.replace(settings, seed=2)
    assert generate_completions(model, tokenizer, ["def f():\n", "x = "], other) != first
    assert [len(set(texts)) for texts in first] == [3, 3]


def test_generation_stops_where_the_function_does(tokenizer):
    """A model that always writes the same text, one letter a step, shows how many steps were made."""
    torch.manual_seed(0)
    text = "  return x\ndef g(): and so on"
    letters = [ord(letter) for letter in text]
    config = MixtralConfig(
        vocab_size=128, hidden_size=128, intermediate_size=16, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, num_local_experts=2, num_experts_per_tok=1,
        bos_token_id=None, eos_token_id=0, tie_word_embeddings=False,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    steps = []

    def force(module, arguments, output):
        steps.append(output.shape)
        output[:] = -100.0
        output[:, -1, letters[min(len(steps) - 1, len(letters) - 1)]] = 100.0
        return output

    model.lm_head.register_forward_hook(force)
    completions = generate_completions(model, tokenizer, ["def f(x):\n"], GenerationSettings(max_new_tokens=28))
    assert completions == [["  return x"]]
    assert len(steps) == text.index("\ndef") + len("\ndef")


def test_prompts_without_room_are_refused(model, tokenizer):
    with pytest.raises(VarError, match=r"max_new_tokens: 120 after a prompt of 9 tokens .* 128 positions"):
        generate_completions(model, tokenizer, ["x", "def f():\n"], GenerationSettings(max_new_tokens=120))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"samples": 0}, "samples: 0 is below 1"),
        ({"batch_size": 0}, "batch_size: 0 is below 1"),
        ({"samples": 2}, "greedy samples are all the same"),
        ({"temperature": -1.0}, "need temperature >= 0"),
        ({"top_p": 0.0}, "0 < top_p"),
    ],
)
def test_settings_that_make_no_sense_are_refused(change, message):
    with pytest.raises(VarError, match=message):
        GenerationSettings(**change)


@needs_sandbox
def test_runs_are_compared_only_where_they_can_be(tmp_path):
    tasks = small_tasks(tmp_path)
    good = judge("plain", tasks, canonical(tasks), limits=QUICK, workers=2)
    texts = canonical(tasks)
    texts[4] = ["    return x\n"]
    worse = judge("policy", tasks, texts, limits=QUICK, workers=2)
    difference = compare_runs(good, worse)
    assert (difference.only_first, difference.only_second, difference.p_value) == (1, 0, 1.0)
    assert [sample.task_id for sample in worse.samples if sample.outcome is Outcome.FAILED] == ["Small/4"]
    assert "AssertionError" in worse.samples[4].output
    sampled = GenerationSettings(samples=1, temperature=0.5)
    for change in ({"tasks_digest": "0"}, {"generation": sampled}, {"limits": Limits()}, {"sandboxed": False}):
        with pytest.raises(VarError, match=f"differ in {next(iter(change))}"):
            compare_runs(good, dataclasses.replace(worse, **change))
    with pytest.raises(VarError, match="equally many completions"):
        judge("plain", tasks, texts[1:])


@needs_sandbox
def test_a_changed_record_is_refused(tmp_path):
    tasks = small_tasks(tmp_path, 2)
    path = tmp_path / "run.json"
    write_run(judge("plain", tasks, canonical(tasks), limits=QUICK), path)
    good = read_json(path)
    for change, message in (
        ({"samples": good["samples"][:1]}, "counts are not those"),
        ({"limits": {}, "samples": 3}, "not a HumanEval run"),
    ):
        write_json(path, {**good, **change})
        with pytest.raises(VarError, match=message) as error:
            read_run(path)
        assert "\n" not in str(error.value)


@needs_sandbox
def test_the_how_to_runs_as_it_stands(save_model, tmp_path, monkeypatch, capsys):
    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=97, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=512, num_local_experts=2, num_experts_per_tok=1,
        bos_token_id=96, eos_token_id=96,
    )  # fmt: skip
    record = save_model(AutoModelForCausalLM.from_config(config), tmp_path / "results" / "models" / "mine")
    subject = Subject.of_model(AutoModelForCausalLM.from_config(config).eval())
    ids = torch.arange(97)[None]
    made_from = {"model": read_record(record).digest, "tokenizer": DocumentTokenizer(record.parent).digest}
    tables = subject.table(ids, subject.decisions(ids), 97)
    Policy(tables, PolicySettings(), subject.layout, {}, made_from).save(tmp_path / "results/mine/text/policy")
    write_rows(tmp_path / "HumanEval.jsonl.gz", [{**ROW, "task_id": f"Small/{number}"} for number in range(3)])
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs/how-to/humaneval.md").read_text(encoding="utf-8")
    code = page.split("```python\n")[1].split("```")[0]
    exec(compile(code, "humaneval.md", "exec"), {})
    said = capsys.readouterr().out
    assert "{'failed': 3}" in said and "only_first=0, only_second=0, p_value=1.0" in said
    for command in page.split("```\n")[1::2][:1]:
        words = [sys.executable, *shlex.split(command)[1:]]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert done.stdout == "the sandbox works here\n", done.stderr
