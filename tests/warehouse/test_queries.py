"""The page of queries: it is read right, every query runs, and what they give is what the data say."""

import textwrap
from pathlib import Path

import duckdb
import numpy as np
import pytest
from scipy.stats import linregress, spearmanr

from var_core.errors import VarError
from var_core.statistics import measures
from var_core.statistics.rarefaction import rarefied_selection_entropy
from var_core.warehouse.files import RunFiles
from var_core.warehouse.queries import read_queries
from var_core.warehouse.run import open_run

PAGE = Path(__file__).resolve().parents[2] / "docs" / "queries.md"
QUERIES = read_queries(PAGE)
SPECIAL = [0, 1]


def write_page(folder, text):
    page = folder / "page.md"
    page.write_text(textwrap.dedent(text), encoding="utf-8")
    return page


def test_queries_are_the_sql_blocks_by_their_headings(tmp_path):
    page = write_page(
        tmp_path,
        """
        # Page
        ## Group
        ### First question
        A sentence.

        ```sql
        SELECT 1
        -- # no heading
        ```

        ### Not a query
        ```python
        # ## no heading either
        ```

        ### Second, with `code`
        ```sql
        SELECT 2
        ```
        """,
    )
    assert read_queries(page) == {
        "First question": "SELECT 1\n-- # no heading",
        "Second, with `code`": "SELECT 2",
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("```sql\nSELECT 1\n```\n", "line 3: a query needs a heading of its own"),
        ("# A\n```sql\nSELECT 1\n```\n```sql\nSELECT 2\n```\n", "line 7: a query needs a heading of its own"),
        ("# A\n```sql\nSELECT 1\n```\n# A\n```sql\nSELECT 2\n```\n", "line 8: a query needs a heading of its own"),
        ("# A\n```sql\nSELECT 1\n", "the last code block is not closed"),
    ],
)
def test_a_page_that_cannot_be_read_is_refused(tmp_path, text, message):
    with pytest.raises(VarError, match=f"page.md: {message}"):
        read_queries(write_page(tmp_path, text))


def test_a_page_that_is_not_there_is_named(tmp_path):
    with pytest.raises(VarError, match=r"none\.md: no such file"):
        read_queries(tmp_path / "none.md")


def test_the_page_has_a_sentence_before_every_query():
    for part in PAGE.read_text(encoding="utf-8").split("\n### ")[1:]:
        title, _, rest = part.partition("\n")
        assert title in QUERIES
        assert rest.partition("```sql")[0].strip().endswith("."), title
    assert len(QUERIES) >= 15


@pytest.fixture(scope="module")
def file(database):
    with duckdb.connect(database, read_only=True) as connection:
        connection.execute(f"SET file_search_path = '{database.parent.parent}'")
        yield connection


@pytest.fixture(scope="module")
def memory(results, small):
    with open_run(RunFiles.in_results(results, small.model, small.corpus)) as connection:
        yield connection


WITHOUT_ROWS = {"Segment predictability", "Experts of the prompt, used again while decoding"}
"""The runs here have neither segments nor phases; recordings in tests/workflow have both."""


@pytest.mark.parametrize("title", QUERIES)
def test_every_query_gives_rows_and_the_same_for_a_run_alone(file, memory, title, small):
    result = file.execute(QUERIES[title])
    names = [column[0] for column in result.description]
    together = result.fetchall()
    assert bool(together) == (title not in WITHOUT_ROWS)
    assert len(set(names)) == len(names)
    alone = memory.execute(QUERIES[title]).fetchall()
    if title == "The same token in two runs" or title in WITHOUT_ROWS:
        assert not alone
    elif "run" in names and title != "What tables and columns mean":
        mine = [row for row in together if row[names.index("run")] == small.name]
        assert len(mine) == len(alone) > 0
        for row, expected in zip(mine, alone, strict=True):
            for value, same in zip(row, expected, strict=True):
                assert value == (pytest.approx(same, rel=1e-12, abs=1e-12) if isinstance(same, float) else same)


def table(connection, title, **where):
    """Rows of a query, as dicts, that have the given values."""
    result = connection.execute(QUERIES[title])
    names = [column[0] for column in result.description]
    found = [dict(zip(names, row, strict=True)) for row in result.fetchall()]
    return [row for row in found if all(row[key] == value for key, value in where.items())]


def types(run, split):
    """Times chosen and first of the token types that are not special, [L, V, E]."""
    return (np.delete(each, SPECIAL, axis=1) for each in run.decisions[split].counts(run.vocabulary, run.experts))


def mean_entropies(run):
    decisions = run.decisions["capture"]
    n = np.bincount(decisions.token, minlength=run.vocabulary)
    sums = [np.bincount(decisions.token, row, run.vocabulary) for row in decisions.quantities[0]]
    with np.errstate(invalid="ignore"):
        return n[2:], (np.array(sums) / n)[:, 2:]


@pytest.mark.parametrize("which", ["small", "other"])
def test_h1_is_scipys_spearman(file, request, which):
    run = request.getfixturevalue(which)
    n, entropy = mean_entropies(run)
    for minimum in (1, 10, 100):
        kept = n >= minimum
        if kept.sum() < 3:
            assert not table(file, "H1: frequency and router entropy", run=run.name, minimum_count=minimum)
            continue
        for layer, values in ((None, entropy.mean(axis=0)), *enumerate(entropy)):
            [row] = table(file, "H1: frequency and router entropy", run=run.name, layer=layer, minimum_count=minimum)
            assert row["types"] == kept.sum()
            assert row["spearman"] == pytest.approx(spearmanr(n[kept], values[kept]).statistic, abs=1e-12)
    # Negative control: frequencies are tied, so ranks that are not averaged would give another value.
    assert len(np.unique(n)) < len(n)


@pytest.mark.parametrize("which", ["small", "other"])
def test_h1_of_selection_entropies(file, request, which):
    run = request.getfixturevalue(which)
    chosen, first = types(run, "capture")
    n = first.sum(-1)[0]
    rarefied = np.array([rarefied_selection_entropy(layer, n, 10) for layer in chosen])
    plug_in = measures.selection_entropy(chosen)
    for estimate, minimum, values in (("rarefied", 10, rarefied), ("plug-in", 1, plug_in), ("plug-in", 10, plug_in)):
        kept = n >= minimum
        for layer, entropy in ((None, values.sum(axis=0)), *enumerate(values)):
            [row] = table(
                file,
                "H1: frequency and selection entropy",
                run=run.name, layer=layer, estimate=estimate, minimum_count=minimum,
            )  # fmt: skip
            expected = spearmanr(n[kept], np.round(entropy[kept], 9)).statistic
            assert row["spearman"] == pytest.approx(expected, abs=1e-9) and row["types"] == kept.sum()


def test_h2_is_scipys_line(file, small):
    n = np.bincount(small.decisions["capture"].token)[2:]
    n = np.sort(n[n > 0])[::-1]
    line = linregress(np.log(np.arange(1, len(n) + 1)), np.log(n))
    [row] = table(file, "H2: rank and frequency", run=small.name)
    assert (row["slope"], row["r_squared"]) == pytest.approx((line.slope, line.rvalue**2), rel=1e-12)


def test_h2_load_leaves_special_tokens_out(file, small):
    chosen, _ = types(small, "capture")
    load = chosen.sum(axis=1)
    names = ("load_max_over_mean", "load_gini", "load_entropy_norm")
    functions = (measures.load_max_over_mean, measures.load_gini, measures.load_entropy_norm)
    values = np.array([[function(row) for function in functions] for row in load])
    for layer, expected in ((None, values.mean(axis=0)), *enumerate(values)):
        [row] = table(file, "H2: concentration of expert load", run=small.name, layer=layer)
        assert [row[name] for name in names] == pytest.approx(list(expected), rel=1e-12)
    [with_special] = table(file, "Load imbalance by layer", run=small.name, layer=0)
    assert with_special["load_max_over_mean"] != pytest.approx(values[0][0], rel=1e-3)


def test_h3_takes_the_most_frequent_only(file, small):
    title = "H3: consistency of the 1,000 most frequent tokens"
    chosen, first = types(small, "capture")
    heldout, _ = types(small, "heldout")
    n = first.sum(-1)
    for most, query in ((1000, QUERIES[title]), (7, QUERIES[title].replace("<= 1000", "<= 7"))):
        top = [t for t in np.argsort(-n[0], kind="stable")[:most] if n[0, t]]
        result = file.execute(query)
        names = [column[0] for column in result.description]
        found = [dict(zip(names, row, strict=True)) for row in result.fetchall() if row[0] == small.name]
        means = []
        for layer, row in enumerate(found[1:]):
            recalled = measures.recalled_slots(
                measures.token_table(chosen[layer], n[layer], small.top_k), heldout[layer]
            )
            slots = heldout[layer].sum(-1)
            seen = [t for t in top if slots[t]]
            means.append(
                (
                    measures.modal_share(first[layer], n[layer])[top].mean(),
                    measures.modal_in_topk(chosen[layer], n[layer])[top].mean(),
                    measures.set_recall(chosen[layer], small.top_k)[top].mean(),
                    (recalled[seen] / slots[seen]).mean(),
                )
            )
            assert row["layer"] == layer and row["types"] == len(top)
        columns = ("modal_share", "modal_in_topk", "set_recall", "heldout_recall")
        for row, expected in zip(found, [np.mean(means, axis=0), *means], strict=True):
            assert [row[name] for name in columns] == pytest.approx(list(expected), rel=1e-12)


def test_h4_as_stated(file, small):
    n, entropy = mean_entropies(small)
    eligible = (n > 50) & (entropy < 0.5)
    coverage = (eligible * n).sum(axis=1) / n.sum()
    for layer, expected in ((None, coverage.mean()), *enumerate(coverage)):
        [row] = table(file, "H4 as stated: coverage by frequency and entropy", run=small.name, layer=layer)
        assert row["coverage"] == pytest.approx(expected, rel=1e-12)
    assert coverage.any()


def test_h4_agreement_by_three_measures(file, small):
    chosen, first = types(small, "capture")
    n, heldout = first.sum(-1), small.decisions["heldout"]
    kept = ~np.isin(heldout.token, SPECIAL)
    token = heldout.token[kept] - len(SPECIAL)
    hot = heldout.hot(small.experts)[:, kept]
    values = []
    for layer in range(small.layers):
        predicted = measures.token_table(chosen[layer], n[layer], small.top_k)[token]
        overlap = np.take_along_axis(hot[layer], predicted, 1).sum(-1)
        first_predicted = measures.token_table(first[layer], n[layer], 1)[token, 0]
        same_first = (heldout.first[layer, kept] == first_predicted).mean()
        values.append((same_first, overlap.mean() / small.top_k, (overlap == small.top_k).mean()))
    columns = ("top1_agreement", "recall_at_k", "set_agreement")
    for layer, expected in ((None, np.mean(values, axis=0)), *enumerate(values)):
        [row] = table(file, "H4: agreement of a token table", run=small.name, layer=layer)
        assert [row[name] for name in columns] == pytest.approx(list(expected), rel=1e-12)
        for name in columns:
            assert row[name] > row[f"global_{name}"]


def test_hypotheses_stage_gives_the_same_numbers(memory, small):
    """What the report shows can be recomputed by the queries."""
    from var_core.config.hypotheses import HypothesesConfig
    from var_core.hypotheses.data import RunData
    from var_core.hypotheses.h1 import h1_results
    from var_core.hypotheses.h2 import h2_results
    from var_core.hypotheses.h3 import h3_results

    config = HypothesesConfig.model_validate(
        {"permutations": 20, "bootstrap": 20, "null_draws": 2, "h2": {"goodness_of_fit_draws": 20}}
    )
    data = RunData(memory, small.name)
    compared = 0
    for row in h1_results(data, config):
        if row.measure == "spearman(frequency, mean_router_entropy)" and row.statistic is not None:
            minimum = 1 if row.form == "as stated" else int(row.variant.removeprefix("minimum count "))
            [mine] = table(memory, "H1: frequency and router entropy", layer=row.layer, minimum_count=minimum)
            assert (mine["spearman"], mine["types"]) == (pytest.approx(row.statistic, abs=1e-12), row.n)
            compared += 1
        elif row.variant == "rarefied to 10 occurrences":
            [mine] = table(memory, "H1: frequency and selection entropy", layer=row.layer, estimate="rarefied",
                           minimum_count=10)  # fmt: skip
            assert mine["spearman"] == pytest.approx(row.statistic, abs=1e-9)
            compared += 1
    lines = {row.measure: row.statistic for row in h2_results(data, config) if row.layer is None}
    [line] = table(memory, "H2: rank and frequency")
    assert line["r_squared"] == pytest.approx(lines["r_squared(ln rank, ln frequency)"], rel=1e-12)
    assert line["slope"] == pytest.approx(lines["slope(ln rank, ln frequency)"], rel=1e-12)
    [load] = table(memory, "H2: concentration of expert load", layer=None)
    assert load["load_gini"] == pytest.approx(lines["load gini"], rel=1e-12)
    assert load["load_max_over_mean"] == pytest.approx(lines["load max/mean"], rel=1e-12)
    for row in h3_results(data, config):
        [mine] = table(memory, "H3: consistency of the 1,000 most frequent tokens", layer=row.layer)
        name = {"mean recall_at_k": "heldout_recall"}.get(row.measure, row.measure.removeprefix("mean "))
        assert mine[name] == pytest.approx(row.statistic, rel=1e-12)
        compared += 1
    assert compared >= 20


def test_jackknife_leaves_out_one_shard_at_a_time(file, small):
    parts = [small.shard("capture", number) for number in range(3)]
    for layer in range(small.layers):
        left_out = [
            np.concatenate([part.quantities[0, layer] for other, part in enumerate(parts) if other != number]).mean()
            for number in range(3)
        ]
        error = np.sqrt(2 / 3 * ((left_out - np.mean(left_out)) ** 2).sum())
        [row] = table(file, "Interval of the mean router entropy", run=small.name, layer=layer)
        assert row["mean_router_entropy"] == pytest.approx(small.decisions["capture"].quantities[0, layer].mean())
        assert row["standard_error"] == pytest.approx(error, rel=1e-9)


def test_entries_of_other_tokens_predict_worse(file, small, other):
    for row in table(file, "Negative control: entries given to other tokens"):
        assert row["own_entry"] > row["global_table"] > 0
        assert row["own_entry"] > 1.2 * row["entry_of_another"]
        assert row["run"] in (small.name, other.name)


def test_coverage_curve_rises_to_all_that_has_an_entry(file, small):
    for layer in range(small.layers):
        curve = table(file, "Coverage curve", run=small.name, layer=layer)
        covered = [row["covered"] for row in curve]
        promises = [row["least_promise"] for row in curve]
        assert covered == sorted(covered) and promises == sorted(promises, reverse=True)
        [whole] = table(file, "Token table against global table", run=small.name, layer=layer)
        assert covered[-1] == pytest.approx(whole["own_entry_share"], rel=1e-12)
        assert curve[0]["agreement"] > curve[-1]["agreement"]


def test_size_of_the_fast_path(file, small):
    title = "Size of the fast path at a threshold"
    query = QUERIES[title].replace("t.n > 50", "t.n > 5").replace(">= 0.8", ">= 0.5")
    assert query != QUERIES[title]
    chosen, first = types(small, "capture")
    heldout, heldout_first = types(small, "heldout")
    n, result = first.sum(-1), file.execute(query).fetchall()
    for layer in range(small.layers):
        taken = (n[layer] > 5) & (measures.modal_share(first[layer], n[layer]) >= 0.5)
        [row] = [row for row in result if row[:2] == (small.name, layer)]
        seen = heldout_first[layer].sum(-1)
        agreed = np.take_along_axis(heldout_first[layer], first[layer].argmax(-1)[:, None], 1)[:, 0]
        recalled = measures.recalled_slots(measures.most_used(chosen[layer], small.top_k), heldout[layer])
        expected = (
            taken.sum(), 2 * small.top_k * taken.sum(), seen[taken].sum() / seen.sum(),
            agreed[taken].sum() / seen[taken].sum(), recalled[taken].sum() / heldout[layer][taken].sum(),
        )  # fmt: skip
        assert row[2:] == pytest.approx(expected, rel=1e-12)


def test_transfer_between_domains(file, small):
    capture, heldout = small.decisions["capture"], small.decisions["heldout"]
    for source in small.domains:
        fitted, _ = capture[capture.domain == source].counts(small.vocabulary, small.experts)
        enough = fitted.sum(-1) >= 10 * small.top_k
        enough[:, SPECIAL] = False
        for target in small.domains:
            scored, _ = heldout[heldout.domain == target].counts(small.vocabulary, small.experts)
            predicted = measures.most_used(fitted, small.top_k)
            hits = (np.take_along_axis(scored, predicted, -1).sum(-1) * enough).sum()
            [row] = table(file, "Transfer between domains", run=small.name, fitted_on=source, used_on=target)
            assert row["recall_at_k"] == pytest.approx(hits / (scored.sum(-1) * enough).sum(), rel=1e-12)


def test_working_set_of_a_window(file, small):
    heldout = small.decisions["heldout"]
    for layer in range(small.layers):
        sets = [
            np.unique(heldout.experts[layer, start : start + 16]).size for start in range(0, len(heldout.token), 16)
        ]
        [row] = table(file, "Experts that a window of 16 tokens needs", run=small.name, layer=layer, split="heldout")
        assert row["windows"] == len(sets) and row["experts_used"] == pytest.approx(np.mean(sets), rel=1e-12)


def test_prefetch_hints_are_learned_on_one_split_and_scored_on_the_other(file, small):
    capture, heldout = (small.decisions[split].hot(small.experts) for split in ("capture", "heldout"))
    for layer in range(small.layers - 1):
        learned, scored = (hot[layer].T @ hot[layer + 1] for hot in (capture, heldout))
        busiest = capture[layer + 1].sum(0).argmax()
        found = table(file, "Prefetch hints from a layer to the next", run=small.name, layer=layer)
        assert [row["expert"] for row in found] == list(range(small.experts))
        for row in found:
            expert, hint = row["expert"], learned[row["expert"]].argmax()
            used = heldout[layer][:, expert].sum()
            assert row["next_expert"] == hint
            if used:
                assert row["hit_rate"] == pytest.approx(scored[expert, hint] / used, rel=1e-12)
                assert row["blind_hit_rate"] == pytest.approx(scored[expert, busiest] / used, rel=1e-12)


def test_load_shift_between_domains(file, small):
    decisions = small.decisions["capture"]
    hot = decisions.hot(small.experts)
    loads = {d: hot[:, decisions.domain == d].sum(1) for d in small.domains}
    for row in table(file, "Load shift between domains", run=small.name):
        a, b = (loads[row[key]][row["layer"]] for key in ("domain", "other_domain"))
        assert row["load_shift"] == pytest.approx(abs(a / a.sum() - b / b.sum()).sum() / 2, rel=1e-12)
        assert row["domain"] < row["other_domain"]


def test_verdicts_are_those_of_the_stage(file, small):
    [row] = table(file, "Verdicts")
    assert (row["run"], row["hypothesis"], row["verdict"]) == (small.name, "H1", "not supported")
    assert [row["layer"] for row in table(file, "Verdicts by layer")] == [0, 1]
