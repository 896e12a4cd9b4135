"""Tuning: a search over replayed decisions, its front measured in the model, and the settings that the policy takes."""

# What decides which point is chosen; a margin only says what is thought of it.
CHOOSING = {
    "choose",
    "confidence",
    "max_learned_share",
    "max_relative_loss",
    "objectives",
    "sampler",
}
RESAMPLING = {"bootstrap", "confidence", "seed"}
MARGIN = {"margin", "margin_kind", "alpha"}


rule calibrate_tables:
    input:
        unpack(fitted_files),
    output:
        "results/{model}/{corpus}/tuning/tables/{tables}.safetensors",
    log:
        "results/logs/calibrate_tables/{model}/{corpus}/{tables}.log",
    benchmark:
        "results/benchmarks/calibrate_tables/{model}/{corpus}/{tables}.jsonl"
    wildcard_constraints:
        model=one_of(RUN_MODELS),
        tables=one_of(TABLE_SETS),
    threads: 1
    resources:
        mem_mb=lambda w, attempt: 8000 * attempt,
        runtime=120,
    params:
        policy=CONFIG.policy.model_dump(mode="json", include={"measure"}),
        code=code_of("calibrate_tables.py"),
    message:
        "Calibrating tables by {wildcards.tables}: {wildcards.model} on {wildcards.corpus}"
    script:
        "../workflow_scripts/calibrate_tables.py"


rule probe_losses:
    input:
        unpack(search_files),
        shards=lambda w: split_shards(w, "calibration"),
        tuning=lambda w: split_shards(w, "tuning"),
        model="results/models/{model}/model.json",
        folder=demo_folder,
    output:
        "results/{model}/{corpus}/tuning/loss_model.json",
    log:
        "results/logs/probe_losses/{model}/{corpus}.log",
    benchmark:
        "results/benchmarks/probe_losses/{model}/{corpus}.jsonl"
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
        config=SELECTED,
        policy=POLICY_MADE,
        tuning=PROBED,
        settings=evaluation_settings,
        code=code_of("probe_losses.py"),
    message:
        "Probing what replaced decisions cost {wildcards.model} on {wildcards.corpus}"
    script:
        "../workflow_scripts/probe_losses.py"


rule tune:
    input:
        unpack(search_files),
        loss_model="results/{model}/{corpus}/tuning/loss_model.json",
    output:
        "results/{model}/{corpus}/tuning/studies/{study}-{worker}.parquet",
    log:
        "results/logs/tune/{model}/{corpus}/{study}-{worker}.log",
    benchmark:
        "results/benchmarks/tune/{model}/{corpus}/{study}-{worker}.jsonl"
    wildcard_constraints:
        model=one_of(RUN_MODELS),
        study=one_of(STUDIES),
        worker=r"\d+",
    threads: 1
    resources:
        mem_mb=lambda w, attempt: 6000 * attempt,
        runtime=240,
    params:
        policy=POLICY_MADE,
        tuning=SEARCHED,
        workers=CONFIG.tuning.workers,
        code=code_of("tune.py"),
    message:
        "Searching settings of {wildcards.model} on {wildcards.corpus}: {wildcards.study}, worker {wildcards.worker}"
    script:
        "../workflow_scripts/tune.py"


rule collect_trials:
    input:
        search=lambda w: study_files(w, "search"),
        random=lambda w: study_files(w, "random"),
        loss_model="results/{model}/{corpus}/tuning/loss_model.json",
    output:
        trials="results/{model}/{corpus}/tuning/trials.parquet",
        importances="results/{model}/{corpus}/tuning/importances.parquet",
    log:
        "results/logs/collect_trials/{model}/{corpus}.log",
    benchmark:
        "results/benchmarks/collect_trials/{model}/{corpus}.jsonl"
    wildcard_constraints:
        model=one_of(RUN_MODELS),
    threads: 1
    resources:
        mem_mb=lambda w, attempt: 2000 * attempt,
        runtime=30,
    params:
        tuning=SEARCHED,
        code=code_of("collect_trials.py"),
    message:
        "Collecting the trials of {wildcards.model} on {wildcards.corpus}"
    script:
        "../workflow_scripts/collect_trials.py"


rule measure_front:
    input:
        unpack(search_files),
        trials="results/{model}/{corpus}/tuning/trials.parquet",
        shards=lambda w: split_shards(w, "tuning"),
        model="results/models/{model}/model.json",
        folder=demo_folder,
    output:
        points="results/{model}/{corpus}/tuning/points.json",
        losses="results/{model}/{corpus}/tuning/measured.losses.parquet",
        ways="results/{model}/{corpus}/tuning/measured.ways.parquet",
    log:
        "results/logs/measure_front/{model}/{corpus}.log",
    benchmark:
        "results/benchmarks/measure_front/{model}/{corpus}.jsonl"
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
        config=SELECTED,
        policy=POLICY_MADE,
        tuning=CONFIG.tuning.model_dump(mode="json", include=set(MEASURED)),
        settings=evaluation_settings,
        code=code_of("measure_front.py"),
    message:
        "Measuring points of the front: {wildcards.model} on {wildcards.corpus}"
    script:
        "../workflow_scripts/measure_front.py"


rule choose_policy:
    input:
        points="results/{model}/{corpus}/tuning/points.json",
        losses="results/{model}/{corpus}/tuning/measured.losses.parquet",
        ways="results/{model}/{corpus}/tuning/measured.ways.parquet",
    output:
        front="results/{model}/{corpus}/tuning/front.parquet",
        chosen="results/{model}/{corpus}/tuning/chosen.json",
    log:
        "results/logs/choose_policy/{model}/{corpus}.log",
    benchmark:
        "results/benchmarks/choose_policy/{model}/{corpus}.jsonl"
    wildcard_constraints:
        model=one_of(RUN_MODELS),
    threads: 1
    resources:
        mem_mb=lambda w, attempt: 2000 * attempt,
        runtime=30,
    params:
        config=CONFIG.evaluation.model_dump(mode="json", include=RESAMPLING),
        tuning=CONFIG.tuning.model_dump(mode="json", include=CHOOSING),
        code=code_of("choose_policy.py"),
    message:
        "Choosing the policy of {wildcards.model} on {wildcards.corpus}"
    script:
        "../workflow_scripts/choose_policy.py"


rule report_tuning:
    input:
        trials="results/{model}/{corpus}/tuning/trials.parquet",
        front="results/{model}/{corpus}/tuning/front.parquet",
        chosen="results/{model}/{corpus}/tuning/chosen.json",
        loss_model="results/{model}/{corpus}/tuning/loss_model.json",
        arms=[
            f"results/{{model}}/{{corpus}}/evaluation/{part}.{kind}.parquet"
            for part in ARMS
            for kind in ("losses", "ways")
        ],
    output:
        summary="results/{model}/{corpus}/tuning/summary.json",
        text=report(
            "results/{model}/{corpus}/tuning/report.txt",
            caption="captions/tuning.rst",
            category="Policy",
            labels={"model": "{model}", "corpus": "{corpus}", "what": "tuning"},
        ),
    log:
        "results/logs/report_tuning/{model}/{corpus}.log",
    benchmark:
        "results/benchmarks/report_tuning/{model}/{corpus}.jsonl"
    wildcard_constraints:
        model=one_of(RUN_MODELS),
    threads: 1
    resources:
        mem_mb=lambda w, attempt: 2000 * attempt,
        runtime=30,
    params:
        config=CONFIG.evaluation.model_dump(mode="json", exclude=MARGIN),
        tuning=CONFIG.tuning.model_dump(mode="json", include=CHOOSING),
        code=code_of("report_tuning.py"),
    message:
        "Reporting the search for settings: {wildcards.model} on {wildcards.corpus}"
    script:
        "../workflow_scripts/report_tuning.py"


rule tuning:
    input:
        [
            f"results/{run.model}/{run.corpus}/tuning/summary.json"
            for run in POLICY_RUNS
            if TUNED
        ],
