"""Traces: routing that others have recorded, and what is measured on the order of decisions."""


rule import_trace:
    input:
        files=corpus_files,
        model="results/models/{model}/model.json",
    output:
        capture=[
            f"results/{{model}}/{{corpus}}/capture/{split}-{shard:05d}.{kind}.parquet"
            for split in COUNTED_SPLITS
            for shard in range(SHARDS[split])
            for kind in (*TABLES, *(["trace"] if split in TRACED else []))
            # For every file of every job Snakemake tries every output of every rule.
            if TRACE_MODELS
        ],
        manifest="results/{model}/{corpus}/corpus/manifest.json",
        vocabulary="results/{model}/{corpus}/corpus/vocabulary.parquet",
        documents="results/{model}/{corpus}/corpus/documents.parquet",
    log:
        "results/logs/import_trace/{model}/{corpus}.log",
    benchmark:
        "results/benchmarks/import_trace/{model}/{corpus}.jsonl"
    wildcard_constraints:
        model=one_of(TRACE_MODELS),
        corpus=one_of(TRACE_CORPORA),
    # A job that is killed for memory or time begins anew with more of both.
    retries: 0 if workflow.remote_exec else 2
    threads: 1
    resources:
        mem_mb=lambda w, attempt: 4000 * attempt,
        runtime=lambda w, attempt: 240 * attempt,
    params:
        model=lambda w: CONFIG.models[w.model].model_dump(mode="json"),
        corpus=lambda w: CONFIG.corpora[w.corpus].model_dump(mode="json"),
        shards=lambda w: shards_of(w.model),
        traced=TRACED,
        seed=CONFIG.capture.seed,
        max_state_mb=CONFIG.capture.max_state_mb,
        code=code_of("import_trace.py"),
    message:
        "Importing the recorded routing {wildcards.corpus} of {wildcards.model}"
    script:
        "../workflow_scripts/import_trace.py"


rule measure_segments:
    input:
        trace_files,
    output:
        "results/{model}/{corpus}/statistics/segments.parquet",
    log:
        "results/logs/measure_segments/{model}/{corpus}.log",
    benchmark:
        "results/benchmarks/measure_segments/{model}/{corpus}.jsonl"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=120,
    params:
        windows=CONFIG.statistics.segment_windows,
        shards=lambda w: shards_of(w.model),
        traced=TRACED,
        code=code_of("measure_segments.py"),
    message:
        "Measuring how soon experts are used again in {wildcards.model} on {wildcards.corpus}"
    script:
        "../workflow_scripts/measure_segments.py"
