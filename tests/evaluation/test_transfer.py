"""Which domains a policy can be made on, and evaluated on: those that have text in the splits it takes."""

import numpy as np
import pyarrow as pa
import pytest

from captures import write_shard
from policy_splits import V, by_pair, routed, text, write_split
from var_core.evaluation.transfer import _evaluated_on, _made_on
from var_core.parquet import read_table, write_table
from var_core.policy.make import Recorded, mean_entropies


@pytest.fixture
def recorded(tmp_path):
    """Statistics and a trace of domain d; statistics name another domain too."""
    ids = text(0)
    statistics, traces = write_split(tmp_path / "fit", ids, routed(ids, by_pair))
    layers = read_table(statistics / "layer_stats.parquet")
    other = pa.table([pa.array(["e"] * len(layers)), *layers.columns[1:]], schema=layers.schema)
    write_table(statistics / "layer_stats.parquet", pa.concat_tables([layers, other]), {})
    return Recorded(statistics, tuple(traces), tuple(traces), tmp_path / "documents.parquet")


def test_a_domain_without_calibration_text_has_no_policy_of_its_own(recorded, caplog):
    assert _made_on(recorded) == ["d"]
    assert "domain e has no text in one of the splits" in caplog.text


def test_domains_of_held_out_text_are_those_of_its_sequences(tmp_path):
    assert _evaluated_on([write_shard(tmp_path / "heldout-00000.parquet")]) == ["code", "prose"]


def test_entropies_can_be_those_of_some_domains(tmp_path):
    rows = {
        "domain": ["a", "b", "b"], "layer": pa.array([0, 0, 1], pa.int16()), "token_id": [2, 2, 3], "n": [10, 30, 5],
        "router_entropy_mean": [0.2, 1.0, 0.5],
    }  # fmt: skip
    write_table(tmp_path / "token_stats.parquet", pa.table(rows), {})
    n, entropy = mean_entropies(tmp_path, 2, V)
    assert n[0, 2] == 40 and entropy[0, 2] == pytest.approx(0.8) and np.isnan(entropy[0, 3])
    n, entropy = mean_entropies(tmp_path, 2, V, ["a"])
    assert n[0, 2] == 10 and entropy[0, 2] == pytest.approx(0.2) and n[1, 3] == 0
