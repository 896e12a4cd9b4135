"""Evaluation: the model on held-out text under the policy and beside it, in a few jobs; and what comes of them."""

from var_core.evaluation.names import POLICY, parts

# Part, which is a job -> arms.
ARMS = parts(CONFIG.evaluation, TUNED)
# Settings of evaluation that decide which sequences the model runs on, and how.
SELECTING = {
    "max_sequences",
    "sequences_per_cluster",
    "batch_sequences",
    "stride",
    "seed",
}
SELECTED = CONFIG.evaluation.model_dump(mode="json", include=SELECTING)


rule evaluate_controls:
    input:
        unpack(evaluated_files),
        policy=policy_files,
        shards=heldout_shards,
        model="results/models/{model}/model.json",
        folder=demo_folder,
    output:
        losses="results/{model}/{corpus}/evaluation/{part}.losses.parquet",
        ways="results/{model}/{corpus}/evaluation/{part}.ways.parquet",
    log:
        "results/logs/evaluate_controls/{model}/{corpus}/{part}.log",
    benchmark:
        "results/benchmarks/evaluate_controls/{model}/{corpus}/{part}.jsonl"
    wildcard_constraints:
        model=one_of(RUN_MODELS),
        part=one_of([part for part in ARMS if part != POLICY]),
    threads: 1
    resources:
        mem_mb=lambda w, attempt: 6000 * attempt,
        runtime=240,
        gpu=int(CONFIG.capture.device == "cuda"),
    params:
        model=lambda w: CONFIG.models[w.model].model_dump(
            mode="json", include=RESULT_OF_MODEL
        ),
        config=SELECTED,
        policy=POLICY_MADE,
        settings=evaluation_settings,
        part=lambda w: w.part,
        arms=lambda w: ARMS[w.part],
        code=code_of("evaluate_part.py"),
    message:
        "Evaluating {wildcards.model} on {wildcards.corpus}: {params.arms}"
    script:
        "../workflow_scripts/evaluate_part.py"


use rule evaluate_controls as evaluate_policy with:
    output:
        losses="results/{model}/{corpus}/evaluation/policy.losses.parquet",
        ways="results/{model}/{corpus}/evaluation/policy.ways.parquet",
        trace="results/{model}/{corpus}/evaluation/policy.trace.parquet",
    log:
        "results/logs/evaluate_policy/{model}/{corpus}.log",
    benchmark:
        "results/benchmarks/evaluate_policy/{model}/{corpus}.jsonl"
    wildcard_constraints:
        model=one_of(RUN_MODELS),
    params:
        model=lambda w: CONFIG.models[w.model].model_dump(
            mode="json", include=RESULT_OF_MODEL
        ),
        config=SELECTED,
        policy=POLICY_MADE,
        settings=evaluation_settings,
        part=POLICY,
        arms=ARMS[POLICY],
        code=code_of("evaluate_part.py"),


rule evaluate_transfer:
    input:
        unpack(recorded_files),
        policy=policy_files,
        shards=heldout_shards,
        model="results/models/{model}/model.json",
        folder=demo_folder,
    output:
        "results/{model}/{corpus}/evaluation/transfer.parquet",
    log:
        "results/logs/evaluate_transfer/{model}/{corpus}.log",
    benchmark:
        "results/benchmarks/evaluate_transfer/{model}/{corpus}.jsonl"
    wildcard_constraints:
        model=one_of(RUN_MODELS),
    threads: 1
    resources:
        mem_mb=lambda w, attempt: 6000 * attempt,
        runtime=240,
        gpu=int(CONFIG.capture.device == "cuda"),
    params:
        model=lambda w: CONFIG.models[w.model].model_dump(
            mode="json", include=RESULT_OF_MODEL
        ),
        config=CONFIG.evaluation.model_dump(
            mode="json",
            exclude={"thresholds", "margin", "margin_kind", "alpha", "jobs"},
        ),
        policy=POLICY_MADE,
        settings=evaluation_settings,
        code=code_of("evaluate_transfer.py"),
    message:
        "Evaluating policies of one domain of {wildcards.corpus} on others: {wildcards.model}"
    script:
        "../workflow_scripts/evaluate_transfer.py"


rule time_policy:
    input:
        unpack(evaluated_files),
        policy=policy_files,
        shards=heldout_shards,
        model="results/models/{model}/model.json",
        folder=demo_folder,
    output:
        "results/{model}/{corpus}/evaluation/speed.json",
    log:
        "results/logs/time_policy/{model}/{corpus}.log",
    wildcard_constraints:
        model=one_of(RUN_MODELS),
    # Alone on a small machine: other jobs would be timed with it.
    threads: 2
    resources:
        mem_mb=lambda w, attempt: 6000 * attempt,
        runtime=60,
        gpu=int(CONFIG.capture.device == "cuda"),
    params:
        model=lambda w: CONFIG.models[w.model].model_dump(
            mode="json", include=RESULT_OF_MODEL
        ),
        config=SELECTED,
        policy=POLICY_MADE,
        settings=evaluation_settings,
        code=code_of("time_policy.py"),
    message:
        "Timing {wildcards.model} with and without its policy on {wildcards.corpus}"
    script:
        "../workflow_scripts/time_policy.py"


rule compare_policies:
    input:
        unpack(compared_files),
        policy=policy_files,
        arms=[
            f"results/{{model}}/{{corpus}}/evaluation/{part}.{kind}.parquet"
            for part in ARMS
            for kind in ("losses", "ways")
        ],
        traces=lambda w: shard_files(w, "trace", "heldout"),
        speed="results/{model}/{corpus}/evaluation/speed.json",
        certificate="results/{model}/{corpus}/policy/certificate.json",
        transfer="results/{model}/{corpus}/evaluation/transfer.parquet",
    output:
        evaluations="results/{model}/{corpus}/evaluation/evaluations.parquet",
        gains="results/{model}/{corpus}/evaluation/gains.parquet",
        frequencies="results/{model}/{corpus}/evaluation/frequencies.parquet",
        policies="results/{model}/{corpus}/evaluation/policies.parquet",
        certificates="results/{model}/{corpus}/evaluation/certificates.parquet",
        verdict="results/{model}/{corpus}/evaluation/verdict.json",
        text=report(
            "results/{model}/{corpus}/evaluation/report.txt",
            caption="captions/evaluation.rst",
            category="Policy",
            labels={"model": "{model}", "corpus": "{corpus}", "what": "evaluation"},
        ),
    log:
        "results/logs/compare_policies/{model}/{corpus}.log",
    benchmark:
        "results/benchmarks/compare_policies/{model}/{corpus}.jsonl"
    wildcard_constraints:
        model=one_of(RUN_MODELS),
    threads: 1
    resources:
        mem_mb=lambda w, attempt: 6000 * attempt,
        runtime=120,
    params:
        config=CONFIG.evaluation.model_dump(mode="json"),
        policy=POLICY_MADE,
        tuned=TUNED,
        code=code_of("compare_policies.py"),
    message:
        "Comparing the policies of {wildcards.model} on {wildcards.corpus}"
    script:
        "../workflow_scripts/compare_policies.py"


rule evaluation:
    input:
        [
            f"results/{run.model}/{run.corpus}/evaluation/verdict.json"
            for run in POLICY_RUNS
        ],
