"""Files that are not what they claim are refused with one line that names file and line or row."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from recorded_routing import (
    EXPERTS,
    LAYERS,
    TOP_K,
    decision_rows,
    decisions,
    esft_lines,
    route_rows,
    sglang_dump,
    write_esft,
    write_route_csv,
)
from var_core.errors import VarError
from var_core.traces.importers.esft import read_esft
from var_core.traces.importers.parquet import read_parquet
from var_core.traces.importers.recording import Shape, check_recording
from var_core.traces.importers.route_csv import read_route_csv
from var_core.traces.importers.sglang import read_sglang, stat_counts
from var_core.traces.importers.token_counts import read_token_counts
from var_core.traces.importers.vllm import read_vllm

SHAPE = Shape(EXPERTS, TOP_K, LAYERS, None, "mine")


def refused(reader, path, shape=SHAPE, **more):
    with pytest.raises(VarError) as caught:
        for recording in reader([(path, path.name)], "chat", shape, **more):
            check_recording(recording, shape)
    message = str(caught.value)
    assert "\n" not in message and str(path) in message
    return message


ESFT = [
    (lambda text: text.replace("\t\t", "\t"), "line 1: must hold experts, two tabs, and weights"),
    (lambda text: text.replace("\t\t", "\t1\t\t"), "line 1: 16 experts, but 15 weights"),
    (lambda text: text.replace("\t", "\t\t", 1), "line 1: must hold"),
    (lambda text: text.rsplit("\n", 2)[0] + "\n", "ends before line 2"),
    (lambda text: "16" + text[text.index("\t") :], "line 1, token 1: expert 16 is outside 0 to 15"),
    (lambda text: "-3" + text[text.index("\t") :], "line 1, token 1: expert -3 is outside 0 to 15"),
    (lambda text: "x" + text[text.index("\t") :], "line 1: "),
    (lambda text: text[text.index("\t") + 1 :], "line 1: 14 experts, but 15 weights"),
    (lambda text: text[: text.rindex("\t")] + "\tnan\n", "line 2, token 4: a weight is not a finite number"),
]


@pytest.mark.parametrize(("change", "message"), ESFT)
def test_esft(tmp_path, change, message):
    sequences = [decisions(5), decisions(4, 1)]
    logs = [esft_lines(sequences, layer) for layer in range(LAYERS)]
    logs[1] = change(logs[1])
    write_esft(tmp_path / "logs.tar.xz", logs)
    told = refused(read_esft, tmp_path / "logs.tar.xz")
    assert message in told and "expert_weights_2.txt" in told


def test_esft_with_a_layer_missing_and_with_one_expert_twice(tmp_path):
    experts, weights = decisions(5)
    experts[2, 0, 1] = experts[2, 0, 0]
    logs = [esft_lines([(experts, weights)], layer) for layer in range(LAYERS)]
    write_esft(tmp_path / "logs.tar.xz", logs)
    told = refused(read_esft, tmp_path / "logs.tar.xz")
    assert "expert_weights_1.txt: line 1, token 3: one decision names the same expert twice" in told
    few = Shape(EXPERTS, TOP_K, 3, None, "mine")
    assert "2 layers are recorded, but models.mine.layers is 3" in refused(read_esft, tmp_path / "logs.tar.xz", few)
    (tmp_path / "expert_weights_4.txt").write_text(logs[0])
    (tmp_path / "expert_weights_6.txt").write_text(logs[1])
    files = [(path, path.name) for path in sorted(tmp_path.glob("*.txt"))]
    with pytest.raises(VarError, match=r"expert_weights_5.txt is missing"):
        list(read_esft(files, "chat", SHAPE))


def swap(rows, one, other):
    rows[one], rows[other] = rows[other], rows[one]


def set_field(rows, row, field, value):
    parts = rows[row].split(",")
    parts[field] = value
    rows[row] = ",".join(parts)


# The header is on line 3, so row 0 is line 4; prefill has 4 steps of 3 rows at layer 0, then 3 rows at layer 1.
ROUTE = [
    (lambda rows: set_field(rows, 4, 5, "16"), "line 8: expert 16 is outside 0 to 15"),
    (lambda rows: set_field(rows, 4, 5, "-1"), "line 8: expert -1 is outside 0 to 15"),
    (lambda rows: set_field(rows, 4, 5, rows[3].split(",")[5]), "line 7: one decision names the same expert twice"),
    (lambda rows: set_field(rows, 4, 6, "nan"), "line 8: has no weight, or it is no number"),
    (lambda rows: set_field(rows, 4, 6, "inf"), "line 7: a weight is not a finite number"),
    (lambda rows: set_field(rows, 4, 6, ""), "line 8: has no weight"),
    (lambda rows: set_field(rows, 4, 5, "x"), "not a route CSV"),
    (lambda rows: set_field(rows, 0, 1, "2"), "line 4: phase 2"),
    (lambda rows: rows.pop(4), "line 8: a decision must be 3 rows with slots 0 to 2"),
    (lambda rows: rows.pop(), "a decision must be 3 rows"),
    (lambda rows: rows.__delitem__(slice(3, 6)), "step 1 is missing before it"),
    (lambda rows: rows.__delitem__(slice(18, 21)), "layer 1 of step 4 is missing beside it"),
    (lambda rows: rows.__setitem__(slice(0, 6), rows[3:6] + rows[0:3]), "line 7: layers or steps are out of order"),
    (lambda rows: [set_field(rows, row, 3, "2") for row in (12, 13, 14)], "line 16: layer 2 is outside 0 to 1"),
]


@pytest.mark.parametrize(("change", "message"), ROUTE)
def test_route_csv(tmp_path, change, message):
    rows = route_rows(decisions(4), decisions(3, 1))
    change(rows)
    write_route_csv(tmp_path / "r.csv.gz", rows, ("# route_trace v1", "# n_layer=2 n_expert=16 n_expert_used=3"))
    assert message in refused(read_route_csv, tmp_path / "r.csv.gz")


@pytest.mark.parametrize("said", ["n_expert=8", "n_expert_used=2", "n_layer=5"])
def test_a_route_csv_of_another_model(tmp_path, said):
    write_route_csv(tmp_path / "r.csv.gz", route_rows(decisions(4), decisions(3, 1)), (f"# {said}",))
    assert f"its header says {said}, but models.mine." in refused(read_route_csv, tmp_path / "r.csv.gz")


PARQUET = [
    (lambda rows: rows.drop(columns="position"), "has no column 'position'"),
    (lambda rows: rows.assign(layer="x"), "column 'layer' holds"),
    (lambda rows: rows.drop(index=3), "row 4: position 2, layer 0 is not the next one"),
    (lambda rows: rows.iloc[[0, 1, 4, 5, 2, 3]], "row 3: position 2, layer 0 is not the next one"),
    (lambda rows: with_cell(rows, 3, "experts", [0, 1]), "row 4: 2 experts or weights where models.mine.top_k is 3"),
    (lambda rows: with_cell(rows, 3, "experts", []), "row 4: 3 weights for 0 experts"),
    (lambda rows: with_cell(rows, 3, "experts", [0, None, 2]), "row 4: an expert or weight is null"),
    (lambda rows: with_cell(rows, 3, "weights", [0.5, None, 0.1]), "row 4: an expert or weight is null"),
    (lambda rows: rows.assign(token_id=1 << 31), "row 1: token id 2147483648 is outside 32 bits"),
    (lambda rows: with_cell(rows, 3, "experts", [0, 1, 16]), "row 4: expert 16 is outside 0 to 15"),
    (lambda rows: with_cell(rows, 3, "experts", [0, -1, 2]), "row 4: expert -1 is outside 0 to 15"),
    (lambda rows: with_cell(rows, 3, "experts", [4, 2, 4]), "row 4: one decision names the same expert twice"),
    (lambda rows: with_cell(rows, 3, "weights", [0.5, np.inf, 0.1]), "row 4: a weight is not a finite number"),
    (lambda rows: with_cell(rows, 3, "token_id", 77), "row 3: the layers of one position have different token ids"),
    (lambda rows: rows.assign(token_id=[0, 0, 0, 0, None, None]), "row 5: has no token_id, while other rows"),
    (lambda rows: rows.assign(token_id=-5), "row 1: token id -5 is negative"),
    (lambda rows: rows.assign(phase="later"), "row 1: phase 'later' is neither prefill nor decode"),
    (lambda rows: rows.assign(document=None), "row 1: has no document"),
]


def with_cell(rows, row, column, value):
    rows = rows.copy()
    rows[column] = rows[column].astype(object)
    rows.at[row, column] = value
    return rows


@pytest.mark.parametrize(("change", "message"), PARQUET)
def test_parquet(tmp_path, change, message):
    change(decision_rows({"a": (*decisions(3), np.arange(3))})).to_parquet(tmp_path / "rows.parquet", index=False)
    assert message in refused(read_parquet, tmp_path / "rows.parquet")


def test_parquet_of_another_model_or_no_parquet(tmp_path):
    decision_rows({"a": (*decisions(3), np.arange(3))}, model="a").to_parquet(tmp_path / "rows.parquet")
    told = refused(read_parquet, tmp_path / "rows.parquet", recorded_model="b")
    assert "holds no rows of model 'b'" in told
    (tmp_path / "none.parquet").write_text("no Parquet")
    assert "not readable as Parquet" in refused(read_parquet, tmp_path / "none.parquet")


class Trap:
    """Unpickling it would run code."""

    def __reduce__(self):
        return print, ("unpickled",)


def test_a_dump_that_would_run_code_is_refused_and_not_run(tmp_path, capsys):
    torch.save({"records": [], "trap": Trap()}, tmp_path / "d.pt")
    told = refused(read_sglang, tmp_path / "d.pt")
    assert "not a dump of tensors and plain values" in told and "write it again with plain tensors" in told
    assert "\x1b" not in told and "can still be loaded" not in told  # torch's advice is to turn the check off
    np.save(tmp_path / "r.npy", np.array([Trap()], dtype=object), allow_pickle=True)
    assert "not readable as .npz or .npy" in refused(read_vllm, tmp_path / "r.npy")
    assert "unpickled" not in capsys.readouterr().out


def change_record(**values):
    return lambda dump: dump["records"][0].update(values)


def cut_map(layers):
    name = "last_physical_to_logical_map"
    return lambda dump: dump.update({name: dump[name][:layers]})


SGLANG = [
    (change_record(forward_mode=5), "record 0: forward_mode 5"),
    (change_record(extend_seq_lens=[3]), "record 0: extend_seq_lens does not sum to its 4 tokens"),
    (change_record(input_ids=[1, 2, 3]), "record 0: topk_ids_of_layer has shape (2, 4, 8), not (layers, 3, 3 or more)"),
    (lambda dump: dump["records"][0].pop("input_ids"), "record 0: has no input_ids"),
    (lambda dump: dump["records"][0]["topk_ids_of_layer"].__setitem__((1, 2, 3), 5), "more experts a token than"),
    (lambda dump: dump["records"][0]["topk_ids_of_layer"].__setitem__((1, 2, 0), 16), "token 2, layer 1: expert 16"),
    (lambda dump: dump["records"][0]["topk_ids_of_layer"].__setitem__((1, 2, 0), -1), "layer 1: 2 experts where"),
    (lambda dump: dump["records"][0]["topk_ids_of_layer"].__setitem__(1, -1), "layer 1 has no experts; name those"),
    (lambda dump: dump["last_physical_to_logical_map"].__setitem__((0, 0), 40), "names experts 0 to 40, but"),
    (lambda dump: dump.pop("records"), "holds neither records"),
    (cut_map(1), "record 0: 2 layers are recorded, but last_physical_to_logical_map has 1"),
    (cut_map(0), "last_physical_to_logical_map has shape (0, 16), not (layers, physical experts)"),
]


@pytest.mark.parametrize(("change", "message"), SGLANG)
def test_sglang(tmp_path, change, message):
    dump = sglang_dump([(1, [4], range(4), decisions(4)[0])])
    change(dump)
    torch.save(dump, tmp_path / "d.pt")
    assert message in refused(read_sglang, tmp_path / "d.pt")


def test_sglang_counts_of_another_model(tmp_path):
    torch.save({"logical_count": torch.ones((2, LAYERS, 8))}, tmp_path / "s.pt")
    with pytest.raises(VarError, match=r"shape \(2, 2, 8\), not \(steps, layers, models.mine.experts = 16\)"):
        stat_counts(tmp_path / "s.pt", SHAPE)
    torch.save({"logical_count": torch.ones((1, LAYERS, 16), dtype=torch.int32)}, tmp_path / "s.pt")
    with pytest.raises(VarError, match=r"layer 0: 16 choices are no multiple of models.mine.top_k, 3"):
        stat_counts(tmp_path / "s.pt", SHAPE)


def test_sglang_decisions_beside_counts(tmp_path):
    torch.save(sglang_dump([(1, [4], range(4), decisions(4)[0])]), tmp_path / "d.pt")
    with pytest.raises(VarError, match=r"d.pt: is a per_token dump beside stat dumps; give them a corpus of their own"):
        stat_counts(tmp_path / "d.pt", SHAPE)


VLLM = [
    ({"routed_experts": decisions(5)[0][..., :2]}, "2 experts a token, but models.mine.top_k is 3"),
    ({"routed_experts": decisions(5)[0] + 3}, "is outside 0 to 15"),
    ({"routed_experts": decisions(5)[0] - 1}, "expert -1 is outside 0 to 15"),
    ({"routed_experts": decisions(5)[0].astype(float)}, "routed_experts holds float64, not whole numbers"),
    ({"routed_experts": decisions(5)[0][0]}, "routed_experts has shape (2, 3)"),
    ({"routed_experts": decisions(5)[0] * [[0], [1]]}, "layer 0 is all zeros, as dense layers are"),
    ({"routed_experts": decisions(5)[0], "prompt_token_ids": np.arange(6)}, "5 rows of routed_experts, but 6"),
    (
        {"routed_experts": decisions(5)[0], "prompt_token_ids": np.arange(3), "token_ids": np.arange(9)},
        "but 9 token_ids",
    ),
    ({"experts": decisions(5)[0]}, "holds no array routed_experts"),
]


@pytest.mark.parametrize(("arrays", "message"), VLLM)
def test_vllm(tmp_path, arrays, message):
    np.savez(tmp_path / "r.npz", **arrays)
    assert message in refused(read_vllm, tmp_path / "r.npz")


def counts(**changes):
    rows = {"layer": [0, 0, 0, 1, 1, 1], "token_id": [7] * 6, "expert": [1, 2, 3, 1, 2, 5], "count": [2] * 6}
    for column, (row, value) in changes.items():
        rows[column][row] = value
    return pa.table(rows)


COUNTS = [
    (counts(expert=(4, 16)), "row 5: expert 16 is outside 0 to 15"),
    (counts(count=(4, 0)), "row 5: count 0 is not positive"),
    (counts(count=(4, 3)), "row 4: token id 7 at layer 1 has 7 choices, which are not 3 distinct experts"),
    (
        counts(count=(3, 4), token_id=(0, 7)).set_column(3, "count", [[2, 2, 2, 4, 1, 1]]),
        "row 4: token id 7 at layer 1",
    ),
    (counts(expert=(4, 1)), "row 5: its layer, token_id and expert are there twice"),
    (counts(token_id=(4, -7)), "row 5: token id -7 is negative"),
    (counts(token_id=(4, 1 << 31)), "row 5: token id 2147483648 is outside 32 bits"),
    (counts().drop_columns("count"), "has no column 'count'"),
    (counts().append_column("model", [list("aabbab")]), "holds 2 models; name one in recorded_model"),
    (counts().set_column(3, "count", [[2, 2, None, 2, 2, 2]]), "row 3: has no count"),
    (counts().set_column(3, "count", [[2.0] * 6]), "column 'count' holds double, not whole numbers"),
]


@pytest.mark.parametrize(("table", "message"), COUNTS)
def test_token_counts(tmp_path, table, message):
    pq.write_table(table, tmp_path / "counts.parquet")
    with pytest.raises(VarError) as caught:
        list(read_token_counts([(tmp_path / "counts.parquet", "c")], "chat", SHAPE, None))
    assert message in str(caught.value)


def test_token_counts_outside_the_vocabulary(tmp_path):
    pq.write_table(counts(), tmp_path / "counts.parquet")
    files = [(tmp_path / "counts.parquet", "c")]
    with pytest.raises(VarError, match=r"row 1: token id 7 is outside the 7 of models.mine.vocabulary"):
        list(read_token_counts(files, "chat", replace(SHAPE, vocabulary=7), None))
    assert list(read_token_counts(files, "chat", replace(SHAPE, vocabulary=8), None))


def test_sound_counts_become_statistics(tmp_path):
    pq.write_table(counts(), tmp_path / "counts.parquet")
    ((domain, tables),) = read_token_counts([(tmp_path / "counts.parquet", "c")], "chat", SHAPE, None)
    assert domain == "chat" and tables["token_stats"]["n"].to_pylist() == [2, 2]
    assert tables["expert_counts"]["chosen"].to_pylist() == [2] * 6
    assert tables["expert_counts"]["first"].null_count == 6  # nobody recorded weights
    assert [sum(row) for row in tables["layer_stats"]["chosen"].to_pylist()] == [6, 6]
    assert tables["layer_stats"]["coactivation"].null_count == 2
    for column in ("pairs", "first_repeats", "any_repeats", "slot_overlaps"):  # sums have no order
        assert tables["layer_stats"][column].null_count == 2
    assert tables["layer_stats"]["dropped"].to_pylist() == [0, 0]
