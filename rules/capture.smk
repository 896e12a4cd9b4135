"""Capture: one job a shard; statistics on the fly, and the ordered trace for the splits that keep one."""


rule capture_shard:
    input:
        shard="results/{model}/{corpus}/corpus/{split}-{shard}.parquet",
        model="results/models/{model}/model.json",
        folder=demo_folder,
    output:
        [
            f"results/{{model}}/{{corpus}}/capture/{{split}}-{{shard}}.{table}.parquet"
            for table in TABLES
        ],
    log:
        "results/logs/capture_shard/{model}/{corpus}/{split}-{shard}.log",
    benchmark:
        "results/benchmarks/capture_shard/{model}/{corpus}/{split}-{shard}.jsonl"
    wildcard_constraints:
        model=one_of(RUN_MODELS),
        split=one_of(UNTRACED),
    # A job that is killed, or ends itself before its time is up, goes on from its checkpoint, with more time; so not
    # within a job of a cluster, whose time is what it is.
    retries: 0 if workflow.remote_exec else 3
    threads: 1
    resources:
        mem_mb=lambda w, attempt: 4000 * attempt,
        runtime=lambda w, attempt: 240 * attempt,
        # With `auto`, only the site knows whether there is one: set-resources in its profile.
        gpu=int(CONFIG.capture.device == "cuda"),
    params:
        # Only what changes results; the rest, the device and the like, is in the settings.
        model=lambda w: CONFIG.models[w.model].model_dump(
            mode="json", include=RESULT_OF_MODEL
        ),
        capture=CONFIG.capture.model_dump(mode="json", include=RESULT_OF_CAPTURE),
        settings=capture_settings,
        shards=lambda w: SHARDS[w.split],
        trace=False,
        code=code_of("capture_shard.py"),
    message:
        "Capturing {wildcards.model} on {wildcards.corpus}, {wildcards.split} shard {wildcards.shard}"
    script:
        "../workflow_scripts/capture_shard.py"


use rule capture_shard as capture_traced_shard with:
    output:
        [
            f"results/{{model}}/{{corpus}}/capture/{{split}}-{{shard}}.{kind}.parquet"
            for kind in (*TABLES, "trace")
        ],
    log:
        "results/logs/capture_traced_shard/{model}/{corpus}/{split}-{shard}.log",
    benchmark:
        "results/benchmarks/capture_traced_shard/{model}/{corpus}/{split}-{shard}.jsonl"
    wildcard_constraints:
        model=one_of(RUN_MODELS),
        split=one_of(TRACED),
    params:
        # Only what changes results; the rest, the device and the like, is in the settings.
        model=lambda w: CONFIG.models[w.model].model_dump(
            mode="json", include=RESULT_OF_MODEL
        ),
        capture=CONFIG.capture.model_dump(mode="json", include=RESULT_OF_CAPTURE),
        settings=capture_settings,
        shards=lambda w: SHARDS[w.split],
        trace=True,
        code=code_of("capture_shard.py"),


rule capture:
    input:
        [
            f"results/{run.model}/{run.corpus}/capture/{split}-{shard:05d}.layer_stats.parquet"
            for run in RUNS
            for split, shards in shards_of(run.model).items()
            for shard in range(shards)
        ],
