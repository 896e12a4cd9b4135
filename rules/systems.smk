"""Systems: what parts cost, caches of experts on recorded routing, experts really offloaded, and when it pays."""


rule profile_model:
    input:
        unpack(evaluated_files),
        policy=policy_files,
        shards=heldout_shards,
        model="results/models/{model}/model.json",
        folder=demo_folder,
    output:
        profile="results/{model}/{corpus}/systems/profile.parquet",
        trace="results/{model}/{corpus}/systems/trace.json.gz",
        machine="results/{model}/{corpus}/systems/machine.json",
    log:
        "results/logs/profile_model/{model}/{corpus}.log",
    benchmark:
        "results/benchmarks/profile_model/{model}/{corpus}.jsonl"
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
        audit=CONFIG.policy.audit.model_dump(mode="json"),
        systems=CONFIG.systems.profile.model_dump(mode="json"),
        settings=evaluation_settings,
        code=code_of("profile_model.py"),
    message:
        "Profiling {wildcards.model} on {wildcards.corpus}"
    script:
        "../workflow_scripts/profile_model.py"


rule count_costs:
    input:
        unpack(replayed_files),
    output:
        "results/{model}/{corpus}/systems/costs.parquet",
    log:
        "results/logs/count_costs/{model}/{corpus}.log",
    benchmark:
        "results/benchmarks/count_costs/{model}/{corpus}.jsonl"
    threads: 1
    resources:
        mem_mb=lambda w, attempt: 4000 * attempt,
        runtime=30,
    params:
        model=lambda w: CONFIG.models[w.model].model_dump(mode="json", include=SHAPED),
        settings=evaluation_settings,
        systems=CONFIG.systems.model_dump(mode="json", include=SYSTEMS_OF_COSTS),
        code=code_of("count_costs.py"),
    message:
        "Counting what {wildcards.model} costs"
    script:
        "../workflow_scripts/count_costs.py"


rule simulate_caches:
    input:
        unpack(replayed_files),
    output:
        "results/{model}/{corpus}/systems/cache_simulations.parquet",
    log:
        "results/logs/simulate_caches/{model}/{corpus}.log",
    benchmark:
        "results/benchmarks/simulate_caches/{model}/{corpus}.jsonl"
    threads: 1
    resources:
        mem_mb=lambda w, attempt: 6000 * attempt,
        runtime=240,
    params:
        model=lambda w: CONFIG.models[w.model].model_dump(mode="json", include=SHAPED),
        settings=evaluation_settings,
        systems=CONFIG.systems.model_dump(mode="json", include=SYSTEMS_OF_CACHES),
        code=code_of("simulate_caches.py"),
    message:
        "Replaying {wildcards.model} on {wildcards.corpus} through caches of experts"
    script:
        "../workflow_scripts/simulate_caches.py"


rule run_offloaded:
    input:
        unpack(evaluated_files),
        policy=policy_files,
        shards=heldout_shards,
        model="results/models/{model}/model.json",
        folder=demo_folder,
        heldout=lambda w: shard_files(w, "trace", "heldout"),
        seen=lambda w: (
            shard_files(w, "trace", "capture") if "capture" in TRACED else []
        ),
    output:
        "results/{model}/{corpus}/systems/offloaded.parquet",
    log:
        "results/logs/run_offloaded/{model}/{corpus}.log",
    benchmark:
        "results/benchmarks/run_offloaded/{model}/{corpus}.jsonl"
    wildcard_constraints:
        model=one_of(RUN_MODELS),
    # Alone on a small machine: other jobs would be timed with it, and loads have a thread of their own.
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
        systems=CONFIG.systems.offload.model_dump(mode="json"),
        seed=CONFIG.systems.caches.seed,
        settings=evaluation_settings,
        code=code_of("run_offloaded.py"),
    message:
        "Running {wildcards.model} with offloaded experts on {wildcards.corpus}"
    script:
        "../workflow_scripts/run_offloaded.py"


rule find_break_even:
    input:
        unpack(broken_even_files),
    output:
        table="results/{model}/{corpus}/systems/break_even.parquet",
        verdict="results/{model}/{corpus}/systems/verdict.json",
        text=report(
            "results/{model}/{corpus}/systems/report.txt",
            caption="captions/systems.rst",
            category="Systems",
            labels={"model": "{model}", "corpus": "{corpus}", "what": "break-even"},
        ),
    log:
        "results/logs/find_break_even/{model}/{corpus}.log",
    benchmark:
        "results/benchmarks/find_break_even/{model}/{corpus}.jsonl"
    threads: 1
    resources:
        mem_mb=lambda w, attempt: 4000 * attempt,
        runtime=30,
    params:
        model=lambda w: CONFIG.models[w.model].model_dump(mode="json", include=SHAPED),
        settings=evaluation_settings,
        systems=CONFIG.systems.model_dump(mode="json"),
        code=code_of("find_break_even.py"),
    message:
        "Finding when prediction pays for {wildcards.model} on {wildcards.corpus}"
    script:
        "../workflow_scripts/find_break_even.py"


rule profile:
    input:
        [
            f"results/{run.model}/{run.corpus}/systems/profile.parquet"
            for run in MODEL_RUNS
        ],


rule costs:
    input:
        [
            f"results/{run.model}/{run.corpus}/systems/costs.parquet"
            for run in SYSTEMS_RUNS
        ],


rule break_even:
    input:
        [
            f"results/{run.model}/{run.corpus}/systems/verdict.json"
            for run in SYSTEMS_RUNS
        ],
        [path for run in SYSTEMS_RUNS for path in systems_tables(run)],
