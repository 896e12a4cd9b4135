"""Report: the one-page summary of each run. The HTML report is Snakemake's own, over all results:

snakemake --cores 2 --report results/report.html --report-after-run
"""


rule write_summary:
    input:
        unpack(summary_files),
    output:
        text=report(
            "results/{model}/{corpus}/report/summary.md",
            caption="captions/summary.rst",
            category="Summary",
            labels={"model": "{model}", "corpus": "{corpus}", "what": "one page"},
        ),
        table=report(
            "results/{model}/{corpus}/report/summary.csv",
            caption="captions/summary.rst",
            category="Summary",
            labels={"model": "{model}", "corpus": "{corpus}", "what": "table"},
        ),
    log:
        "results/logs/write_summary/{model}/{corpus}.log",
    benchmark:
        "results/benchmarks/write_summary/{model}/{corpus}.jsonl"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        code=code_of("write_summary.py"),
    message:
        "Summarising {wildcards.model} on {wildcards.corpus}"
    script:
        "../workflow_scripts/write_summary.py"


rule report:
    input:
        over_runs("results/{model}/{corpus}/report/summary.md"),
