"""Corpus: documents, and sequences of tokens for a model."""


rule write_documents:
    input:
        corpus_files,
        copies=lambda w: [storage(address) for address in corpus_objects(w)],
    output:
        documents="results/corpora/{corpus}/documents.parquet",
        manifest="results/corpora/{corpus}/manifest.json",
    log:
        "results/logs/write_documents/{corpus}.log",
    benchmark:
        "results/benchmarks/write_documents/{corpus}.jsonl"
    wildcard_constraints:
        corpus=one_of(TEXT_CORPORA),
    threads: 1
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        # Limits on tokens belong to packing; a change of them must not read the documents again.
        config=lambda w: CONFIG.corpora[w.corpus].model_dump(
            mode="json", exclude={"max_tokens"}
        ),
        addresses=corpus_objects,
        code=code_of("write_documents.py"),
    message:
        "Reading the documents of {wildcards.corpus}"
    script:
        "../workflow_scripts/write_documents.py"


rule pack_sequences:
    input:
        documents="results/corpora/{corpus}/documents.parquet",
        model="results/models/{model}/model.json",
        folder=demo_folder,
    output:
        manifest="results/{model}/{corpus}/corpus/manifest.json",
        vocabulary="results/{model}/{corpus}/corpus/vocabulary.parquet",
        shards=[
            f"results/{{model}}/{{corpus}}/corpus/{split}-{shard:05d}.parquet"
            for split, shards in SHARDS.items()
            for shard in range(shards)
        ],
    log:
        "results/logs/pack_sequences/{model}/{corpus}.log",
    benchmark:
        "results/benchmarks/pack_sequences/{model}/{corpus}.jsonl"
    wildcard_constraints:
        model=one_of(RUN_MODELS),
    threads: 2
    resources:
        mem_mb=4000,
        runtime=120,
    params:
        sequences=CONFIG.sequences.model_dump(mode="json"),
        shards=SHARDS,
        micro_shards=CONFIG.capture.micro_shards.model_dump(mode="json"),
        max_tokens=lambda w: CONFIG.corpora[w.corpus].max_tokens.model_dump(mode="json"),
        code=code_of("pack_sequences.py"),
    message:
        "Packing {wildcards.corpus} into sequences for {wildcards.model}"
    script:
        "../workflow_scripts/pack_sequences.py"


rule corpus:
    input:
        over_runs("results/{model}/{corpus}/corpus/manifest.json"),
