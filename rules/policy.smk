"""Policy: tables fitted to the capture split, calibrated on another, and what is promised of them."""


rule make_policy:
    input:
        unpack(made_files),
    output:
        record="results/{model}/{corpus}/policy/policy.json",
        tables="results/{model}/{corpus}/policy/tables.safetensors",
        text="results/{model}/{corpus}/policy/text.parquet",
    log:
        "results/logs/make_policy/{model}/{corpus}.log",
    benchmark:
        "results/benchmarks/make_policy/{model}/{corpus}.jsonl"
    wildcard_constraints:
        model=one_of(RUN_MODELS),
    threads: 1
    resources:
        mem_mb=lambda w, attempt: 8000 * attempt,
        runtime=120,
    params:
        config=POLICY_MADE,
        code=code_of("make_policy.py"),
    message:
        "Making the policy of {wildcards.model} on {wildcards.corpus}"
    script:
        "../workflow_scripts/make_policy.py"


rule certify_policy:
    input:
        policy=policy_files,
        trace="results/{model}/{corpus}/evaluation/policy.trace.parquet",
        losses="results/{model}/{corpus}/evaluation/policy.losses.parquet",
        documents=documents_file,
    output:
        certificate="results/{model}/{corpus}/policy/certificate.json",
        evidence=[
            f"results/{{model}}/{{corpus}}/policy/{name}.parquet"
            for name in ("evidence", "losses", "trace", "tried_on")
        ],
    log:
        "results/logs/certify_policy/{model}/{corpus}.log",
    benchmark:
        "results/benchmarks/certify_policy/{model}/{corpus}.jsonl"
    threads: 1
    resources:
        mem_mb=lambda w, attempt: 4000 * attempt,
        runtime=60,
    params:
        config=CONFIG.certificate.model_dump(mode="json"),
        code=code_of("certify_policy.py"),
    message:
        "Certifying the policy of {wildcards.model} on {wildcards.corpus}"
    script:
        "../workflow_scripts/certify_policy.py"


rule policy:
    input:
        [f"results/{run.model}/{run.corpus}/policy/policy.json" for run in POLICY_RUNS],


rule certificate:
    input:
        [
            f"results/{run.model}/{run.corpus}/policy/certificate.json"
            for run in POLICY_RUNS
        ],
