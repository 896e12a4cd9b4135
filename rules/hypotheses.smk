"""Hypotheses: H1 to H4 as first stated and corrected, with intervals and nulls."""


rule test_hypotheses:
    input:
        unpack(run_files),
    output:
        verdicts="results/{model}/{corpus}/hypotheses/verdicts.json",
        table="results/{model}/{corpus}/hypotheses/verdicts.parquet",
        caption="results/{model}/{corpus}/hypotheses/meaning.txt",
        text=report(
            "results/{model}/{corpus}/hypotheses/report.txt",
            caption="captions/hypotheses.rst",
            category="Hypotheses",
            labels={"model": "{model}", "corpus": "{corpus}", "what": "verdicts"},
        ),
    log:
        "results/logs/test_hypotheses/{model}/{corpus}.log",
    benchmark:
        "results/benchmarks/test_hypotheses/{model}/{corpus}.jsonl"
    threads: 1
    resources:
        mem_mb=lambda w, attempt: 4000 * attempt,
        runtime=120,
    params:
        config=CONFIG.hypotheses.model_dump(mode="json"),
        shards=lambda w: shards_of(w.model),
        traced=TRACED,
        code=code_of("test_hypotheses.py"),
    message:
        "Testing the hypotheses for {wildcards.model} on {wildcards.corpus}"
    script:
        "../workflow_scripts/test_hypotheses.py"


rule hypotheses:
    input:
        over_runs("results/{model}/{corpus}/hypotheses/verdicts.json"),
