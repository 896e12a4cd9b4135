"""Statistics: the shards of a split merged in fixed order."""


rule merge_statistics:
    input:
        **{table: lambda w, table=table: shard_files(w, table) for table in TABLES},
    output:
        **{
            table: f"results/{{model}}/{{corpus}}/statistics/{{split}}/{table}.parquet"
            for table in TABLES
        },
    log:
        "results/logs/merge_statistics/{model}/{corpus}/{split}.log",
    benchmark:
        "results/benchmarks/merge_statistics/{model}/{corpus}/{split}.jsonl"
    threads: 1
    resources:
        mem_mb=lambda w, attempt: 4000 * attempt,
        runtime=60,
    params:
        code=code_of("merge_statistics.py"),
    message:
        "Merging the statistics of {wildcards.model} on {wildcards.corpus}, {wildcards.split}"
    script:
        "../workflow_scripts/merge_statistics.py"


rule statistics:
    input:
        over_runs(
            "results/{model}/{corpus}/statistics/{split}/{table}.parquet",
            split=COUNTED_SPLITS,
            table=TABLES,
        ),
