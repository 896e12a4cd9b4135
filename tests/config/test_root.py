"""Every kind of bad configuration ends in one line that names the file, the key and what to do."""

import copy
import re
from pathlib import Path

import pytest

from var_core.config.root import RESERVED_NAMES, Config, load_config, parse_config, read_yaml
from var_core.errors import VarError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
GOOD = {
    "runs": [{"model": "demo", "corpus": "text"}],
    "models": {"demo": {"source": "demo", "corpus": "text"}},
    "corpora": {"text": {"source": "python-stdlib"}},
}
HUB_MODEL = {"source": "hub", "repo": "owner/model", "revision": COMMIT}
FILES = {"source": "files", "format": "text", "domains": {"books": ["a.txt"]}}


def with_(path: str, value: object) -> dict:
    """The good configuration with one key set, added or (value ``...``) removed."""
    values = copy.deepcopy(GOOD)
    *folders, last = path.split("/")
    here = values
    for name in folders:
        here = here[int(name)] if isinstance(here, list) else here.setdefault(name, {})
    if value is ...:
        del here[last]
    else:
        here[last] = value
    return values


def message_of(values: object) -> str:
    with pytest.raises(VarError) as caught:
        parse_config(values, "some.yaml")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_good_configuration_is_accepted():
    config = parse_config(GOOD, "some.yaml")
    assert isinstance(config, Config)
    assert config.models["demo"].source == "demo"


BAD = [
    # keys
    ("captur", {}, "captur: unknown key; did you mean capture?"),
    ("capture/batch_sequence", 4, "capture.batch_sequence: unknown key; did you mean batch_sequences?"),
    ("models/demo/layer", 4, "models.demo.layer: unknown key; did you mean layers?"),
    (
        "capture/shards/zebra",
        4,
        "capture.shards.zebra: unknown key; known here are capture, calibration, tuning, heldout",
    ),
    ("corpora/text/splits", {"trains": 1.0}, "corpora.text.splits.trains: unknown key; did you mean train?"),
    ("models/demo/corpus", ..., "models.demo.corpus: is missing (corpus whose train split"),
    ("runs", ..., "runs: is missing (what is to be answered"),
    ("models/demo/source", ..., "models.demo.source: is missing; known are demo, folder, hub"),
    ("models/demo/source", "hubb", "models.demo.source: 'hubb' is not known; known are demo, folder, hub"),
    ("corpora/text/source", "c4", "corpora.text.source: 'c4' is not known; known are files, hub, python-stdlib"),
    # types
    ("models", None, "models: must be a block of settings, not null"),
    ("models/demo", "mixtral", "models.demo: must be a block of settings, not 'mixtral'"),
    ("runs", {"model": "demo"}, "runs: must be a list, not a block"),
    ("runs", [], "runs: is empty"),
    ("runs", ["demo"], "runs.0: must be a block of settings, not 'demo'"),
    ("capture", None, "capture: must be a block of settings, not null; leave the key out for its default"),
    ("capture/batch_sequences", "many", "capture.batch_sequences: must be a whole number, not 'many'"),
    ("capture/batch_sequences", 2.5, "capture.batch_sequences: must be a whole number, not 2.5"),
    ("capture/batch_sequences", True, "capture.batch_sequences: must be a number, not true"),
    ("capture/batch_sequences", [4], "capture.batch_sequences: must be a whole number, not a list"),
    ("capture/trace", "heldout", "capture.trace: must be a list, not 'heldout'"),
    ("models/demo/learning_rate", "fast", "models.demo.learning_rate: must be a number, not 'fast'"),
    ("models/demo/learning_rate", float("nan"), "models.demo.learning_rate: must be a finite number, not nan"),
    ("sequences/isolate_documents", "maybe", "sequences.isolate_documents: must be true or false, not 'maybe'"),
    ("models/other", {**HUB_MODEL, "revision": 1234567}, "must be text, not 1234567; put it in quotes"),
    (
        "corpora/mine",
        {**FILES, "domains": {"books": "a.txt"}},
        "corpora.mine.domains.books: must be a list, not 'a.txt'",
    ),
    # values
    ("capture/shards/capture", 1, "capture.shards.capture: must be at least 2, not 1"),
    ("capture/batch_sequences", 0, "capture.batch_sequences: must be more than 0, not 0"),
    ("hypotheses/confidence", 1, "hypotheses.confidence: must be less than 1, not 1"),
    ("corpora/text/splits", {"train": 2}, "corpora.text.splits.train: must be at most 1, not 2"),
    (
        "capture/trace",
        ["heldut"],
        "capture.trace.0: must be 'capture', 'calibration', 'tuning' or 'heldout', not 'heldut'",
    ),
    ("capture/trace", ["heldout"] * 2, "capture.trace: names 'heldout' twice"),
    ("capture/trace", ["capture"], "capture.trace: must name calibration"),
    ("capture/trace", ["calibration", "tuning"], "capture.trace: must name heldout"),
    ("figures/formats", ["png"], "figures.formats.0: must be 'svg' or 'pdf', not 'png'"),
    ("corpora/mine", {**FILES, "domains": {}}, "corpora.mine.domains: is empty (domain name -> paths"),
    ("models/other", {**HUB_MODEL, "revision": "main"}, "models.other.revision: must be a full commit hash"),
    ("models/other", {**HUB_MODEL, "repo": "./here"}, "models.other.repo: must be owner/name as on huggingface.co"),
    ("models/demo/top_k", 9, "models.demo: top_k (9) must not exceed experts (8)"),
    ("models/demo/seed", "x" * 500, "…"),
    # names
    ("models/a b", HUB_MODEL, "models.a b: a name is letters, digits,"),
    ("corpora/..", FILES, "corpora...: a name is letters, digits,"),
    ("models/logs", HUB_MODEL, "models.logs: results/logs has another use"),
    ("runs", [{"model": "mixtral", "corpus": "text"}], "runs.0.model: 'mixtral' is not defined; defined are demo"),
    ("runs", [{"model": "demo", "corpus": "c4"}], "runs.0.corpus: 'c4' is not defined; defined are text"),
    ("runs", GOOD["runs"] * 2, "runs: the same model and corpus are named twice"),
    ("models/demo/corpus", "c4", "models.demo.corpus: 'c4' is not defined; defined are text"),
    # keys that must fit each other
    (
        "corpora/text/splits",
        {"train": 0, "capture": 0.55, "heldout": 0.26},
        "corpora.text.splits.train: is 0, but models.demo",
    ),
    ("corpora/text/splits", {"train": 0.35}, None),
    ("policy/cache", {"shared": True}, "policy: cache.shared: sequences that share a cache depend on each other"),
    ("policy/tables", ["token", "position"], "policy: tables: position is a part of pair"),
    ("policy/tables", ["pair"], "policy: tables: must name token"),
    (
        "capture/trace",
        ["calibration", "tuning", "heldout"],
        "policy.tables: pair is fitted to decisions in their order",
    ),
    (
        "corpora/text/splits",
        {"train": 0.9},
        "train 0.9 + capture 0.2 + calibration 0.09 + tuning 0.1 + heldout 0.26 make 1.55, not 1; give all 5",
    ),
    ("sequences/length", 4096, "sequences.length: 4096 is over models.demo.max_position (512)"),
]


@pytest.mark.parametrize(
    ("path", "value", "expected"), BAD, ids=[f"{path}={str(value)[:30]}" for path, value, _ in BAD]
)
def test_a_bad_configuration_is_described_in_one_line(path, value, expected):
    if expected is None:
        parse_config(with_(path, value), "some.yaml")
        return
    message = message_of(with_(path, value))
    assert message.startswith("some.yaml: ")
    assert expected in message
    assert len(message) < 300


@pytest.mark.parametrize("values", [[1], "text", None, 3])
def test_settings_that_are_no_mapping(values):
    assert message_of(values) == "some.yaml: must hold keys with values (runs, models, corpora, …)"


def test_a_key_that_is_no_text():
    assert message_of({**GOOD, 1: 2}) == "some.yaml: 1: a key must be text; put it in quotes"
    assert "models.7: must be text, not 7; put it in quotes" in message_of({**GOOD, "models": {7: HUB_MODEL}})


def test_further_faults_are_counted_and_a_misspelt_key_comes_first():
    values = with_("models/other", {"source": "hub", "repo": "a/b", "revison": COMMIT})
    assert message_of(values) == "some.yaml: models.other.revison: unknown key; did you mean revision? (and 1 more)"


def test_a_model_that_no_run_uses_may_have_short_positions():
    values = with_("models/other", HUB_MODEL)
    values["runs"] = [{"model": "other", "corpus": "text"}]
    values["sequences"] = {"length": 4096}
    assert parse_config(values, "some.yaml").sequences.length == 4096


def test_no_model_can_take_the_place_of_another_result():
    assert {"corpora", "models", "logs", "benchmarks", "var.duckdb"} <= RESERVED_NAMES


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


GOOD_YAML = """
runs:
  - {model: demo, corpus: text}
models:
  demo: {source: demo, corpus: text}
corpora:
  text: {source: python-stdlib}
"""


def error_of(path: Path) -> str:
    with pytest.raises(VarError) as caught:
        load_config(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_file_is_loaded(tmp_path):
    assert load_config(write(tmp_path / "good.yaml", GOOD_YAML)) == parse_config(GOOD, "some.yaml")


def test_a_missing_file(tmp_path):
    assert re.search(r"none\.yaml: no such file; config/config.yaml", error_of(tmp_path / "none.yaml"))


def test_a_folder_is_no_file(tmp_path):
    assert "not readable as UTF-8 text" in error_of(tmp_path)


def test_a_file_that_is_not_utf_8(tmp_path):
    path = tmp_path / "latin.yaml"
    path.write_bytes("runs: [é]".encode("latin-1"))
    assert "latin.yaml: not readable as UTF-8 text" in error_of(path)


def test_a_file_that_is_not_yaml_names_the_line(tmp_path):
    message = error_of(write(tmp_path / "broken.yaml", "runs:\n  - {model: demo\nmodels: {}\n"))
    assert re.search(r"broken\.yaml:3: not valid YAML \(", message)


def test_a_character_that_yaml_forbids(tmp_path):
    assert "bell.yaml: not valid YAML" in error_of(write(tmp_path / "bell.yaml", "runs: \x07\n"))


def test_a_key_given_twice_names_the_line(tmp_path):
    message = error_of(
        write(tmp_path / "twice.yaml", GOOD_YAML + "sequences: {length: 128}\nsequences: {length: 256}\n")
    )
    assert "twice.yaml:9: not valid YAML (key sequences is given twice)" in message
    nested = error_of(write(tmp_path / "nested.yaml", GOOD_YAML + "capture: {seed: 1, seed: 2}\n"))
    assert "nested.yaml:8: not valid YAML (key seed is given twice)" in nested


def test_a_part_of_a_configuration_is_read_but_not_with_keys_given_twice(tmp_path):
    assert read_yaml(write(tmp_path / "part.yaml", "capture: {seed: 1}\n")) == {"capture": {"seed": 1}}
    with pytest.raises(VarError, match=r"twice\.yaml:1: not valid YAML \(key seed is given twice\)"):
        read_yaml(write(tmp_path / "twice.yaml", "capture: {seed: 1, seed: 2}\n"))


def test_an_empty_file_lacks_its_runs(tmp_path):
    assert "empty.yaml: runs: is missing" in error_of(write(tmp_path / "empty.yaml", "# nothing yet\n"))


def test_a_preset_that_lacks_runs(tmp_path):
    text = GOOD_YAML.split("models:")[1]
    assert "part.yaml: runs: is missing" in error_of(write(tmp_path / "part.yaml", "models:" + text))


def test_yaml_can_run_no_code(tmp_path):
    assert "not valid YAML" in error_of(write(tmp_path / "evil.yaml", "runs: !!python/object/apply:os.getcwd []\n"))


def test_a_shard_holds_whole_micro_shards():
    with pytest.raises(VarError) as caught:
        parse_config(GOOD | {"capture": {"shards": {"capture": 7}}}, "some.yaml")
    assert "micro_shards.capture: 48 is not a multiple of the 7 shards of shards.capture" in str(caught.value)
    assert "\n" not in str(caught.value)
