"""What runs again when something changes: the rows of docs/reference/reruns.md, each of which is a test.

They are about a workflow of two runs that has finished: ``tiny`` on ``topics``, a model that the workflow trains on
text of Python's, and ``pinned`` on ``own``, a model of the hub at a commit on local text files.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

BOTH = ("tiny", "pinned")
OF_A_RUN = {
    "write_documents": 1,
    "pack_sequences": 1,
    "capture_traced_shard": 6,
    "merge_statistics": 2,
    "calibrate_tables": 3,
    "probe_losses": 1,
    "tune": 2,
    "collect_trials": 1,
    "measure_front": 1,
    "choose_policy": 1,
    "make_policy": 1,
    "evaluate_controls": 3,
    "evaluate_policy": 1,
    "evaluate_transfer": 1,
    "time_policy": 1,
    "certify_policy": 1,
    "compare_policies": 1,
    "report_tuning": 1,
    "measure_segments": 1,
    "test_hypotheses": 1,
    "profile_model": 1,
    "count_costs": 1,
    "simulate_caches": 1,
    "run_offloaded": 1,
    "find_break_even": 1,
    "draw_figure": 19,
    "write_summary": 1,
}
JOBS: dict[str, dict[str, int]] = {
    "tiny": OF_A_RUN | {"train_demo_model": 1, "draw_figure": 20},
    "pinned": OF_A_RUN | {"fetch_model": 1},
}
"""Run -> rule -> number of jobs in the whole workflow; ``build_warehouse`` is one job over all runs."""

VERDICTS = ("test_hypotheses", "draw_figure", "write_summary", "build_warehouse")
SEGMENTS = ("measure_segments", *VERDICTS)
SHOWN = ("draw_figure", "write_summary", "build_warehouse")
WORTH = ("find_break_even", *SHOWN)
COMPARED = ("compare_policies", *WORTH)
SYSTEMS = ("profile_model", "count_costs", "simulate_caches", "run_offloaded", "find_break_even")
CHOSEN = (
    "make_policy", "evaluate_controls", "evaluate_policy", "evaluate_transfer", "time_policy", "certify_policy",
    "compare_policies", "report_tuning", *SYSTEMS,
)  # fmt: skip
MEASURED = ("measure_front", "choose_policy", *CHOSEN)
SEARCHED = ("probe_losses", "tune", "collect_trials", *MEASURED)
POLICY = ("calibrate_tables", *SEARCHED)
SYSTEMS_FIGURES = {"draw_figure": 6}
"""Those of what routing is worth, of both runs."""
ITS_FIGURES = {"draw_figure": 16}
"""And those of policies."""
SEARCH_FIGURES = {"draw_figure": 24}
"""And those of the search for their settings."""
CAPTURE = ("capture_traced_shard", "merge_statistics", *POLICY, *SEGMENTS)
PACKING = ("pack_sequences", *CAPTURE)


@dataclass(frozen=True)
class Row:
    """One change and one command, and what then runs.

    Attributes
    ----------
    change : str
        In words; Markdown.
    rules : tuple of str
        Rules that run, and no other does.
    why : str
        In words; Markdown.
    command : tuple of str, optional
        Arguments of Snakemake, besides those for cores and configuration.
    runs : tuple of str, optional
        Runs whose jobs these are.
    part : mapping of str to int, optional
        Rule -> number of jobs, where not all of the rule's run.
    settings : mapping, optional
        Laid over the configuration.
    append : mapping of str to str, optional
        File -> text that is added at its end.
    add : mapping of str to str, optional
        New file -> its text.
    touch, delete : tuple of str, optional
        Patterns of files whose time becomes now; that are deleted.
    executed : bool, optional
        Whether the test also runs it, on ``tiny`` alone.
    """

    change: str
    rules: tuple[str, ...]
    why: str
    command: tuple[str, ...] = ()
    runs: tuple[str, ...] = BOTH
    part: Mapping[str, int] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    append: Mapping[str, str] = field(default_factory=dict)
    add: Mapping[str, str] = field(default_factory=dict)
    touch: tuple[str, ...] = ()
    delete: tuple[str, ...] = ()
    executed: bool = False

    def jobs(self, configured: tuple[str, ...] = BOTH) -> dict[str, int]:
        """Number of jobs of each rule, where only these runs are configured."""
        return {
            rule: self.part.get(rule, 1 if rule == "build_warehouse" else sum(JOBS[run].get(rule, 0) for run in runs))
            for runs in [[run for run in self.runs if run in configured]]
            for rule in self.rules
        }


CODE = "\nEDITED = 1\n"
COMMENT = "\n# A comment.\n"
FIGURE = "results/tiny/topics/figures/expert_load.png"
NO_TIMES = ("--rerun-triggers", "mtime", "params", "input", "software-env")

ROWS: dict[str, list[Row]] = {
    "Seeds": [
        Row(
            "`capture.seed`",
            CAPTURE,
            "it shuffles what mutual information is compared with",
            settings={"capture": {"seed": 1}},
        ),
        Row(
            "`hypotheses.seed`",
            VERDICTS,
            "resampling changes, captured routing does not",
            settings={"hypotheses": {"seed": 1}},
        ),
        Row(
            "`models.tiny.seed`, of a model trained here",
            ("train_demo_model", *PACKING),
            "another model; the documents stay",
            runs=("tiny",),
            settings={"models": {"tiny": {"seed": 1}}},
        ),
    ],
    "Settings": [
        Row(
            "a threshold: `hypotheses.h4.coverage_above`",
            VERDICTS,
            "verdicts, and what shows them",
            settings={"hypotheses": {"h4": {"coverage_above": 0.5}}},
        ),
        Row(
            "the style of figures: `figures.dpi`",
            ("draw_figure",),
            "nothing reads a figure",
            settings={"figures": {"dpi": 61}},
        ),
        Row(
            "`statistics.segment_windows`",
            SEGMENTS,
            "measured on the traces that are there",
            settings={"statistics": {"segment_windows": [8]}},
        ),
        Row(
            "a setting of capture that changes results: `capture.batch_sequences`",
            CAPTURE,
            "the last digits of sums depend on it",
            settings={"capture": {"batch_sequences": 4}},
        ),
        Row(
            "settings of capture that do not: `capture.device`, `capture.checkpoint_tokens`",
            (),
            "the results are the same",
            settings={"capture": {"device": "cpu", "checkpoint_tokens": 5000}},
        ),
        Row(
            "`sequences.length`",
            PACKING,
            "other sequences of the same documents; a model is trained on its own",
            settings={"sequences": {"length": 32}},
        ),
    ],
    "Policies": [
        Row(
            "what the fast path takes: `policy.agreement_threshold`",
            (*SEARCHED, *SHOWN),
            "a search begins with the policy as configured; what it chooses, and all that is measured of it, follow; "
            "hypotheses and their figures stay",
            part=SEARCH_FIGURES,
            settings={"policy": {"agreement_threshold": 0.6}},
        ),
        Row(
            "the search: `tuning.trials`, `tuning.space`, `tuning.sampler`, here `tuning.trials`",
            tuple(rule for rule in SEARCHED if rule != "probe_losses") + SHOWN,
            "more trials go on from those that were tried; another space or sampler begins anew",
            part=SEARCH_FIGURES,
            settings={"tuning": {"trials": 14}},
        ),
        Row(
            "which point of the front is chosen: `tuning.choose`",
            ("choose_policy", *CHOSEN, *SHOWN),
            "nothing is tried or measured again on the tuning split",
            part=SEARCH_FIGURES,
            settings={"tuning": {"choose": "fewest_learned"}},
        ),
        Row(
            "what is allowed: `evaluation.margin`",
            COMPARED,
            "the model need not run again",
            part=ITS_FIGURES,
            settings={"evaluation": {"margin": 0.02}},
        ),
        Row(
            "what is promised: `certificate.confidence`",
            ("certify_policy", *COMPARED),
            "from what was measured",
            part=ITS_FIGURES,
            settings={"certificate": {"confidence": 0.9}},
        ),
        Row(
            "settings of the audit: `policy.audit.share`",
            ("profile_model", "count_costs", "simulate_caches", *WORTH),
            "it is for running the policy later, but is timed beside it; what is measured of the machine follows",
            part=SYSTEMS_FIGURES,
            settings={"policy": {"audit": {"share": 0.5}}},
        ),
        Row(
            "the code of the verdict on policies: `var_core/evaluation/verdict.py`",
            COMPARED,
            "and what shows it",
            part=ITS_FIGURES,
            append={"var_core/evaluation/verdict.py": CODE},
        ),
    ],
    "What it is worth": [
        Row(
            "how the model is profiled: `systems.profile.rounds`",
            ("profile_model", "count_costs", "simulate_caches", *WORTH),
            "the machine is measured with it, and its times are another's",
            part=SYSTEMS_FIGURES,
            settings={"systems": {"profile": {"rounds": 6}}},
        ),
        Row(
            "what is counted: `systems.costs.contexts`",
            ("count_costs", *WORTH),
            "nothing is measured again",
            part=SYSTEMS_FIGURES,
            settings={"systems": {"costs": {"contexts": [128]}}},
        ),
        Row(
            "which caches are replayed: `systems.caches.most_sizes`",
            ("simulate_caches", *WORTH),
            "from the traces that are there",
            part=SYSTEMS_FIGURES,
            settings={"systems": {"caches": {"most_sizes": 3}}},
        ),
        Row(
            "`systems.caches.seed`",
            ("simulate_caches", "run_offloaded", *WORTH),
            "of resamples and random predictions, also where the model is run",
            part=SYSTEMS_FIGURES,
            settings={"systems": {"caches": {"seed": 1}}},
        ),
        Row(
            "what is run offloaded: `systems.offload.tokens`",
            ("run_offloaded", *WORTH),
            "and what is said of it",
            part=SYSTEMS_FIGURES,
            settings={"systems": {"offload": {"tokens": 9}}},
        ),
        Row(
            "`systems.devices`",
            ("count_costs", "simulate_caches", *WORTH),
            "times of other devices; the model is not run again",
            part=SYSTEMS_FIGURES,
            settings={"systems": {"devices": ["rtx-4090"]}},
        ),
        Row(
            "`systems.enabled`, which becomes false",
            ("write_summary", "build_warehouse"),
            "they leave it out; its files stay",
            settings={"systems": {"enabled": False}},
        ),
        Row(
            "the code of the verdict: `var_core/systems/verdict.py`",
            WORTH,
            "and what shows it",
            part=SYSTEMS_FIGURES,
            append={"var_core/systems/verdict.py": CODE},
        ),
    ],
    "Corpora and models": [
        Row(
            "a corpus: `corpora.topics.domains`",
            ("write_documents", "train_demo_model", *PACKING),
            "other documents, and `tiny` is trained on them",
            runs=("tiny",),
            settings={"corpora": {"topics": {"domains": ["reference"]}}},
        ),
        Row(
            "`corpora.topics.max_tokens`",
            PACKING,
            "a limit on what is captured; documents and training stay",
            runs=("tiny",),
            settings={"corpora": {"topics": {"max_tokens": {"capture": 20000}}}},
        ),
        Row(
            "a local text file is edited",
            ("write_documents", *PACKING),
            "its content is compared; other corpora stay",
            runs=("pinned",),
            append={"text/3.txt": "A further sentence."},
        ),
        Row(
            "a local text file is added",
            ("write_documents", *PACKING),
            "the pattern of `domains` matches it",
            runs=("pinned",),
            add={"text/more.txt": "A further document."},
        ),
        Row(
            "the revision of a model: `models.pinned.revision`",
            ("fetch_model", *PACKING),
            "its tokenizer may differ, so sequences are packed again",
            runs=("pinned",),
            settings={"models": {"pinned": {"revision": "2" * 40}}},
        ),
        Row(
            "a run is taken out of `runs`",
            ("build_warehouse",),
            "the database is over all runs; files of the run stay",
            settings={"runs": [{"model": "tiny", "corpus": "topics"}]},
        ),
        Row(
            "a run of the same model on another corpus is added to `runs`",
            (*PACKING,),
            "only what it lacks; the analyses of other runs stay",
            part={rule: count for rule, count in JOBS["pinned"].items() if rule in PACKING},
            settings={
                "runs": [
                    {"model": "tiny", "corpus": "topics"},
                    {"model": "pinned", "corpus": "own"},
                    {"model": "pinned", "corpus": "topics"},
                ]
            },
        ),
    ],
    "Code": [
        Row(
            "one figure's code: `var_core/figures/expert_load.py`",
            ("draw_figure",),
            "that figure of each run",
            part={"draw_figure": 2},
            append={"var_core/figures/expert_load.py": CODE},
        ),
        Row(
            "what all figures share: `var_core/figures/style.py`",
            ("draw_figure",),
            "each figure imports it",
            append={"var_core/figures/style.py": CODE},
        ),
        Row(
            "the code of the hypotheses: `var_core/hypotheses/nulls.py`",
            VERDICTS,
            "and what shows verdicts",
            append={"var_core/hypotheses/nulls.py": CODE},
        ),
        Row(
            "the code of the summary: `var_core/report/summary.py`",
            ("write_summary",),
            "nothing reads the summary",
            append={"var_core/report/summary.py": CODE},
        ),
        Row(
            "code that no stage uses: `var_core/warehouse/queries.py`",
            (),
            "it is for questions after the run",
            append={"var_core/warehouse/queries.py": CODE},
        ),
        Row(
            "a comment or docstring in the library",
            (),
            "compared is what runs",
            append={"var_core/capture/job.py": COMMENT, "var_core/figures/style.py": COMMENT},
        ),
    ],
    "Files": [
        Row(
            "touched files of up to 1 MB, content unchanged: text, results, library",
            (),
            "Snakemake compares the checksums of newer files with the recorded ones",
            touch=(
                "text/*.txt",
                "results/corpora/*/*",
                "results/models/*/model.json",
                "results/*/*/*/*.*",
                "var_core/*/*.py",
                "rules/*.smk",
            ),
        ),
        Row(
            "a touched file that is larger",
            PACKING,
            "larger than `--max-checksum-file-size` (here 1 KB), only its time is looked at",
            ("--max-checksum-file-size", "1KB"),
            runs=("pinned",),
            touch=("results/corpora/own/documents.parquet",),
        ),
        Row(
            "a touched script: `workflow_scripts/draw_figure.py`",
            ("draw_figure",),
            "of scripts Snakemake looks at the time only; `git checkout` of another branch and back is enough",
            touch=("workflow_scripts/draw_figure.py",),
        ),
        Row(
            "the same",
            (),
            "without the trigger `code`; edits are still found, by the digest in the parameters",
            NO_TIMES,
            touch=("workflow_scripts/draw_figure.py",),
        ),
        Row(
            "an edited script",
            ("write_summary",),
            "by that digest",
            NO_TIMES,
            append={"workflow_scripts/write_summary.py": CODE},
        ),
        Row(
            "one shard's statistics are deleted",
            (),
            "nothing that is asked for is missing",
            delete=("results/tiny/topics/capture/capture-00001.*",),
        ),
        Row(
            "the same",
            ("capture_traced_shard",),
            "that shard alone; it comes out byte for byte as it was, so nothing after it runs then",
            ("capture",),
            runs=("tiny",),
            part={"capture_traced_shard": 1},
            delete=("results/tiny/topics/capture/capture-00001.*",),
            executed=True,
        ),
        Row(
            "a figure is deleted",
            ("draw_figure",),
            "that figure",
            runs=("tiny",),
            part={"draw_figure": 1},
            delete=(FIGURE,),
        ),
        Row("the database is deleted", ("build_warehouse",), "from the runs' files", delete=("results/var.duckdb",)),
    ],
    "Asked for": [
        Row("nothing", (), "all is there"),
        Row(
            "a threshold and the style of figures, and I ask for one stage",
            ("test_hypotheses",),
            "figures wait until they are asked for",
            ("hypotheses",),
            settings={"hypotheses": {"confidence": 0.9}, "figures": {"dpi": 61}},
            executed=True,
        ),
        Row(
            "`capture.seed`, and I ask for one stage",
            ("capture_traced_shard", "merge_statistics"),
            "what the stage needs: the splits that statistics are merged of",
            ("statistics",),
            part={"capture_traced_shard": 8},
            settings={"capture": {"seed": 1}},
        ),
        Row(
            "`capture.seed`, and I ask up to a rule",
            ("capture_traced_shard", "merge_statistics"),
            "what the rule needs",
            ("--until", "merge_statistics"),
            part={"capture_traced_shard": 8},
            settings={"capture": {"seed": 1}},
        ),
        Row(
            "a threshold, and I ask for one model",
            ("test_hypotheses",),
            "the other run is not looked at",
            ("results/pinned/own/hypotheses/verdicts.json",),
            runs=("pinned",),
            settings={"hypotheses": {"confidence": 0.9}},
        ),
        Row(
            "the code of one figure, and I ask for it",
            ("draw_figure",),
            "of that run",
            (FIGURE,),
            runs=("tiny",),
            part={"draw_figure": 1},
            append={"var_core/figures/expert_load.py": CODE},
            executed=True,
        ),
        Row(
            "nothing, and I want one figure again",
            ("draw_figure",),
            "`--force` is for what is asked for",
            ("--force", FIGURE),
            runs=("tiny",),
            part={"draw_figure": 1},
        ),
        Row(
            "nothing, and I want one stage again, with all that follows from it",
            ("merge_statistics", *POLICY, *VERDICTS),
            "",
            ("--forcerun", "merge_statistics"),
        ),
        Row(
            "nothing, and I want one stage again, and nothing else",
            ("test_hypotheses",),
            "",
            ("--forcerun", "test_hypotheses", "--until", "test_hypotheses"),
        ),
    ],
}
