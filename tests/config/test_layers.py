"""Configuration files laid over one another, as Snakemake does it."""

import pytest
import yaml

from var_core.config.layers import load_layers
from var_core.errors import VarError

UNCOUNTED = ("calibration", "tuning", "heldout")
BASE = {
    "runs": [{"model": "tiny", "corpus": "text"}],
    "models": {"tiny": {"source": "demo", "corpus": "text"}},
    "corpora": {"text": {"source": "python-stdlib"}},
    "capture": {"seed": 1, "shards": {"capture": 3}},
}


def write(folder, **files):
    for name, values in files.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(values))
    return [folder / f"{name}.yaml" for name in files]


def test_keys_are_laid_over_one_by_one_and_lists_whole(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    layers = write(
        tmp_path,
        base=BASE | {"policy": {"tables": ["token"]}},
        one={"capture": {"shards": {"capture": 6}}},
        two={"capture": {"trace": list(UNCOUNTED)}},
    )
    config = load_layers(layers)
    assert (config.capture.seed, config.capture.shards.capture, config.capture.trace) == (1, 6, UNCOUNTED)


def test_the_default_lies_below_where_there_is_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config").mkdir()
    write(tmp_path / "config", config=BASE)
    assert load_layers([]).capture.shards.capture == 3
    assert load_layers(write(tmp_path, own={"capture": {"seed": 7}})).capture.model_dump()["seed"] == 7


def test_no_configuration_at_all_is_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(VarError, match=r"config/config\.yaml: no such file"):
        load_layers([])


def test_a_fault_names_the_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(VarError, match=r"base\.yaml, .*one\.yaml: captur: unknown key"):
        load_layers(write(tmp_path, base=BASE, one={"captur": {}}))


def test_a_module_s_configuration_stands_under_a_key(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outer = write(tmp_path, outer={"mine": 1, "routing": BASE})
    assert load_layers(outer, "routing").runs[0].model == BASE["runs"][0]["model"]
    with pytest.raises(VarError, match=r"--key: .*outer\.yaml: there is no key rooting"):
        load_layers(outer, "rooting")
