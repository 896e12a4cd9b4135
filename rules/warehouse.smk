"""Warehouse: one DuckDB file over all models and corpora."""


def warehouse_inputs(wildcards):
    """Everything of every run that goes into the database."""
    files = []
    for run in RUNS:
        for paths in run_files(run).values():
            files += [paths] if isinstance(paths, str) else paths
        files.append(f"results/{run.model}/{run.corpus}/hypotheses/verdicts.parquet")
    return sorted(set(files))


rule build_warehouse:
    input:
        warehouse_inputs,
    output:
        database="results/var.duckdb",
    log:
        "results/logs/build_warehouse.log",
    benchmark:
        "results/benchmarks/build_warehouse.jsonl"
    threads: 2
    resources:
        mem_mb=lambda w, attempt: 4000 * attempt,
        runtime=120,
    params:
        runs=[(run.model, run.corpus) for run in RUNS],
        shards=SHARDS,
        traced=TRACED,
        code=code_of("build_warehouse.py"),
    message:
        "Building the DuckDB file over {params.runs}"
    script:
        "../workflow_scripts/build_warehouse.py"


rule warehouse:
    input:
        rules.build_warehouse.output,
