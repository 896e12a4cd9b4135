"""VAR: is the routing of a Mixture-of-Experts model predictable, from what, and what is that worth?

A table of contents. Each stage is a target: snakemake corpus | model | capture | statistics | hypotheses |
policy | tuning | evaluation | certificate | profile | costs | break_even | warehouse | figures | report. Without a
target everything is made.
"""

from snakemake.utils import min_version

min_version("9.19")


configfile: "config/config.yaml"


# Used with --software-deployment-method apptainer only; containers/var.def says how it is built.
container: "containers/var.sif"


include: "rules/common.smk"
include: "rules/storage.smk"
include: "rules/corpus.smk"
include: "rules/model.smk"
include: "rules/capture.smk"
include: "rules/traces.smk"
include: "rules/statistics.smk"
include: "rules/hypotheses.smk"
include: "rules/evaluation.smk"
include: "rules/policy.smk"
include: "rules/tuning.smk"
include: "rules/systems.smk"
include: "rules/warehouse.smk"
include: "rules/figures.smk"
include: "rules/report.smk"


rule all:
    default_target: True
    input:
        rules.warehouse.input,
        rules.evaluation.input,
        rules.tuning.input,
        rules.break_even.input,
        rules.figures.input,
        rules.report.input,
