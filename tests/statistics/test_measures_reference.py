"""The measures on real routing counts give the values that were computed independently of this project."""

import json
import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from var_core.hypotheses.nulls import spearman
from var_core.hypotheses.zipf import rank_frequency_line
from var_core.statistics import measures as m

DATA = Path(os.environ.get("VAR_SHARED_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
COUNTS = DATA / "olmoe_mixtral_token_expert_counts.parquet"
EXPERTS = {"OLMoE-1B-7B": (64, 8), "Mixtral-8x7B": (8, 2)}
RUNS = [f"{model}.L{layer}" for model in EXPERTS for layer in (0, 7, 15)]

pytestmark = pytest.mark.skipif(
    not COUNTS.exists(), reason=f"no recorded routing counts in {DATA} (set VAR_SHARED_DATA to the folder)"
)


@pytest.fixture(params=RUNS)
def case(request):
    """Counts [domains, V, E], k, and the values to reproduce."""
    model, layer = request.param.rsplit(".L", 1)
    experts, top_k = EXPERTS[model]
    rows = pq.read_table(COUNTS, filters=[("model", "=", model), ("layer", "=", int(layer))])
    expected = json.loads((DATA / "reference_values.json").read_text())[request.param]
    domains = rows["domain"].combine_chunks()
    domain = np.searchsorted(expected["domains"], domains.dictionary.to_pylist())[domains.indices.to_numpy()]
    ids, token = np.unique(rows["token_id"].to_numpy(), return_inverse=True)
    counts = np.zeros((len(expected["domains"]), len(ids), experts), dtype=np.int64)
    np.add.at(counts, (domain, token, rows["expert"].to_numpy()), rows["count"].to_numpy())
    return counts, top_k, expected


def test_reference_values(case):
    by_domain, top_k, expected = case
    counts = by_domain.sum(axis=0)
    n = counts.sum(axis=1) // top_k
    entropy = m.selection_entropy(counts)
    top = np.argsort(-n, kind="stable")[:1000]
    line, load = rank_frequency_line(n), counts.sum(axis=0)
    values = {
        "tokens": int(n.sum()),
        "types": len(n),
        **{
            f"rho_freq_selection_entropy_min{minimum}": spearman(n[n >= minimum].astype(float), entropy[n >= minimum])
            for minimum in (1, 10, 100)
        },
        "zipf_slope": line.slope,
        "zipf_r2": line.r_squared,
        "top1000_set_recall_mean": m.set_recall(counts, top_k)[top].mean(),
        "top1000_modal_in_topk_mean": m.modal_in_topk(counts, n)[top].mean(),
        "vocabulary_specialization_min10": m.vocabulary_specialization(counts, n),
        "load_max_over_mean": m.load_max_over_mean(load),
        "load_cv": m.load_variation(load),
        "load_entropy_norm": m.load_entropy_norm(load),
    }
    for index, domain in enumerate(expected["domains"]):
        rest = counts - by_domain[index]
        table = m.token_table(rest, rest.sum(axis=1) // top_k, top_k)
        values[f"table_recall_heldout_{domain}"] = m.table_recall(table, by_domain[index])
        values[f"global_recall_heldout_{domain}"] = m.table_recall(m.global_table(rest, top_k), by_domain[index])
    assert set(values) == set(expected) - {"domains"}
    wrong = {name: (value, expected[name]) for name, value in values.items() if abs(value - expected[name]) > 5.01e-5}
    assert not wrong
