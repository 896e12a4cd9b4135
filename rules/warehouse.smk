"""Warehouse: one DuckDB file over all models and corpora."""


rule build_warehouse:
    input:
        warehouse_files,
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
        runs=[
            (
                run.model,
                run.corpus,
                shards_of(run.model),
                (run.model, run.corpus) in EVALUATED,
                TUNED and (run.model, run.corpus) in EVALUATED,
                systems_of(run),
            )
            for run in RUNS
        ],
        traced=TRACED,
        code=code_of("build_warehouse.py"),
    message:
        "Building the DuckDB file over all runs"
    script:
        "../workflow_scripts/build_warehouse.py"


rule warehouse:
    input:
        rules.build_warehouse.output,
