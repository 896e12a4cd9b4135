"""Model: train the demo model, or fetch a pinned one once; later stages are offline."""


rule train_demo_model:
    input:
        documents=lambda w: f"results/corpora/{CONFIG.models[w.model].corpus}/documents.parquet",
    output:
        record="results/models/{model}/model.json",
        config="results/models/{model}/config.json",
        weights="results/models/{model}/model.safetensors",
        tokenizer="results/models/{model}/tokenizer.json",
        tokenizer_config="results/models/{model}/tokenizer_config.json",
        curve="results/models/{model}/training.csv",
        summary="results/models/{model}/training.json",
    log:
        "results/logs/train_demo_model/{model}.log",
    benchmark:
        "results/benchmarks/train_demo_model/{model}.jsonl"
    wildcard_constraints:
        model=one_of(DEMO_MODELS),
    threads: 2
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        config=lambda w: CONFIG.models[w.model].model_dump(
            mode="json", exclude={"dtype", "expect"}
        ),
        code=code_of("train_demo_model.py"),
    message:
        "Training {wildcards.model}"
    script:
        "../workflow_scripts/train_demo_model.py"


rule fetch_model:
    input:
        model_files,
    output:
        record="results/models/{model}/model.json",
    log:
        "results/logs/fetch_model/{model}.log",
    benchmark:
        "results/benchmarks/fetch_model/{model}.jsonl"
    wildcard_constraints:
        model=one_of(FETCHED_MODELS),
    threads: 1
    resources:
        mem_mb=2000,
        runtime=240,
    params:
        config=lambda w: CONFIG.models[w.model].model_dump(
            mode="json", exclude={"dtype", "expect", "device_map"}
        ),
        code=code_of("fetch_model.py"),
    message:
        "Fetching {wildcards.model}"
    script:
        "../workflow_scripts/fetch_model.py"


rule model:
    input:
        [
            f"results/models/{name}/model.json"
            for name in sorted({run.model for run in RUNS})
        ],
