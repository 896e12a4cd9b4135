"""Figures: one job a figure, so that an edit of one draws it again and no other."""

from var_core.figures.registry import FIGURES, figures_of, label


rule draw_figure:
    input:
        unpack(run_files),
        verdicts="results/{model}/{corpus}/hypotheses/verdicts.json",
        evaluation=drawn_tables,
        trained=lambda w: (
            f"results/models/{w.model}/training.json" if w.model in DEMO_MODELS else []
        ),
    output:
        png=report(
            "results/{model}/{corpus}/figures/{figure}.png",
            # It holds the text that the job writes beside the figure, with this run's numbers.
            caption="captions/figure.rst",
            category="Figures",
            labels=lambda w: {
                "model": w.model,
                "corpus": w.corpus,
                "figure": label(w.figure),
            },
        ),
        caption="results/{model}/{corpus}/figures/{figure}.txt",
        vector=[
            f"results/{{model}}/{{corpus}}/figures/{{figure}}.{kind}"
            for kind in CONFIG.figures.formats
        ],
    log:
        "results/logs/draw_figure/{model}/{corpus}/{figure}.log",
    benchmark:
        "results/benchmarks/draw_figure/{model}/{corpus}/{figure}.jsonl"
    wildcard_constraints:
        figure=one_of(FIGURES),
    threads: 1
    resources:
        mem_mb=lambda w, attempt: 4000 * attempt,
        runtime=60,
    params:
        config=CONFIG.figures.model_dump(mode="json"),
        shards=lambda w: shards_of(w.model),
        traced=TRACED,
        # What all figures share, and the figure's own module, which is imported by its name.
        code=lambda w: (
            code_of("draw_figure.py") + code_digest(f"var_core/figures/{w.figure}.py")
        ),
    message:
        "Drawing {wildcards.figure} of {wildcards.model} on {wildcards.corpus}"
    script:
        "../workflow_scripts/draw_figure.py"


rule figures:
    input:
        [
            f"results/{run.model}/{run.corpus}/figures/{figure}.png"
            for run in RUNS
            for figure in figures_of(
                trained=run.model in DEMO_MODELS,
                policy=run in POLICY_RUNS,
                tuned=TUNED and run in POLICY_RUNS,
                systems=run in SYSTEMS_RUNS,
            )
        ],
