import itertools
import json
import re
from pathlib import Path

import jsonschema
import pytest
import yaml

from var_core.config import generate
from var_core.config.root import Config, parse_config

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads(generate.rendered_files()[Path("config/schema.json")])


def test_the_generated_files_are_current():
    assert generate.stale_files(ROOT) == [], "run python -m var_core.config.generate"


def test_check_names_stale_files_and_writing_mends_them(tmp_path, capsys):
    arguments = ["--root", str(tmp_path)]
    assert generate.main([*arguments, "--check"]) == 1
    assert not any(tmp_path.iterdir())
    assert len(capsys.readouterr().err.splitlines()) == 3

    assert generate.main(arguments) == 0
    assert generate.main([*arguments, "--check"]) == 0

    schema = tmp_path / "config/schema.json"
    schema.write_text(
        schema.read_text(encoding="utf-8").replace("whether", "if").replace("a", "b", 1), encoding="utf-8"
    )
    capsys.readouterr()
    assert generate.main([*arguments, "--check"]) == 1
    assert capsys.readouterr().err == "error: config/schema.json is stale; run python -m var_core.config.generate\n"


def test_the_default_holds_every_key_with_its_default():
    values = yaml.safe_load((ROOT / "config/config.yaml").read_text(encoding="utf-8"))
    assert values == json.loads(generate.DEFAULT.model_dump_json())


def test_the_default_needs_nothing_from_elsewhere():
    sources = {member.source for member in [*generate.DEFAULT.models.values(), *generate.DEFAULT.corpora.values()]}
    assert sources == {"demo", "python-stdlib"}


def test_every_key_of_the_default_has_a_comment():
    lines = generate.default_yaml().splitlines()
    for before, line in itertools.pairwise(lines):
        key = re.match(r" *([a-z_0-9]+):", line)
        if key and key[1] not in ("demo",):
            assert "#" in line or before.lstrip().startswith("#"), line


def test_no_line_of_the_default_is_wider_than_a_screen():
    assert max(map(len, generate.default_yaml().splitlines())) <= 110


def test_the_examples_work_when_uncommented():
    text = re.sub(r"^  # (?=(  )*(- |[a-z0-9_-]+:))", "  ", generate.default_yaml(), flags=re.MULTILINE)
    config = parse_config(yaml.safe_load(text), "config.yaml")
    assert config.runs == generate.DEFAULT.runs + generate.EXAMPLES.runs
    assert config.models == generate.DEFAULT.models | generate.EXAMPLES.models
    assert config.corpora == generate.DEFAULT.corpora | generate.EXAMPLES.corpora


def test_the_schema_knows_the_default_and_refuses_what_the_models_refuse():
    good = yaml.safe_load(generate.default_yaml())
    jsonschema.validate(good, SCHEMA)
    for wrong in ({"captur": {}}, {"capture": {"seeds": 1}}, {"sequences": {"length": "long"}}, {"runs": []}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(good | wrong, SCHEMA)


def test_the_schema_describes_every_key_and_allows_no_other():
    blocks = {"Config": SCHEMA, **SCHEMA["$defs"]}
    for name, block in blocks.items():
        assert block["additionalProperties"] is False, name
        for key, field in block["properties"].items():
            assert "description" in field or "$ref" in field, f"{name}.{key}"


def test_the_reference_has_a_row_for_every_key():
    page = generate.reference_page()
    rows = set(re.findall(r"^\| `(\w+)` \| .+ \| .+ \| .+ \|$", page, flags=re.MULTILINE))
    assert rows == {key for block in [SCHEMA, *SCHEMA["$defs"].values()] for key in block["properties"]}
    assert page.count("| `capture` |") == 5  # the top level, splits, max_tokens, shards and micro_shards
    for section in ("`models.<name>` with `source: demo`", "`capture.shards`", "`corpora.<name>.splits`", "`runs[]`"):
        assert page.count(f"## {section}\n") == 1


def test_the_reference_says_what_a_key_may_be():
    page = generate.reference_page()
    assert "| `format` | `text`, `jsonl`, `parquet` | must be given |" in page
    assert "| `vocabulary` | whole number ≥ 300 | " in page
    assert "| `name` | text or null | `null` |" in page


def test_generating_twice_gives_the_same_bytes():
    assert generate.rendered_files() == generate.rendered_files()


def test_every_part_of_the_configuration_is_described():
    assert all(field.description for field in Config.model_fields.values())
