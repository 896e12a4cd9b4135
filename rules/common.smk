"""The checked configuration, and what several stages need of it."""

import os
import re
import sys
from pathlib import Path

from var_core.code_digest import code_digest
from var_core.config.corpus import (
    CAPTURED_SPLITS,
    COUNTED_SPLITS,
    FilesCorpus,
    TraceCorpus,
)
from var_core.config.models import DemoModel, FolderModel, TraceModel
from var_core.config.root import parse_config, read_yaml
from var_core.config.tuning import TABLES_OF
from var_core.errors import VarError
from var_core.figures.registry import OF_POLICY, OF_SYSTEMS, OF_TUNING
from var_core.systems.machine import devices_of
from var_core.tuning.names import CONTROL, SEARCH
from var_core.warehouse.files import SYSTEMS_FILES

try:
    for path in workflow.configfiles:
        # Snakemake has read them already, but takes the last of keys given twice.
        read_yaml(Path(path))
    CONFIG = parse_config(config, ", ".join(map(str, workflow.configfiles)) or "config")
    devices_of(CONFIG.systems, None)
except VarError as error:
    # One line for the user; a traceback into this file would say nothing more.
    print(f"error: {error}", file=sys.stderr)
    sys.exit(1)

# Threads of one job that spin while they wait for each other stall it for minutes on cores that others use too.
# libgomp reads this when torch is loaded, so it has to stand in the environment of the jobs.
os.environ.setdefault("GOMP_SPINCOUNT", "3000")

RUNS = CONFIG.runs
SHARDS = CONFIG.capture.shards.model_dump()
# Settings of capture that change results; a change of the others (device, checkpoint interval) reruns nothing.
RESULT_OF_MODEL = {
    "dtype",
    "quantisation",
    "exclude_sites",
    "expect",
    "trust_remote_code",
}
RESULT_OF_CAPTURE = {"batch_sequences", "max_state_mb", "seed"}
TABLES = ("token_stats", "expert_counts", "layer_stats")
DEMO_MODELS = [
    name for name, model in CONFIG.models.items() if isinstance(model, DemoModel)
]
# Routing that somebody recorded stands in for a model's; such runs have neither corpus nor capture stage.
TRACE_MODELS = [
    name for name, model in CONFIG.models.items() if isinstance(model, TraceModel)
]
TRACE_CORPORA = [
    name for name, corpus in CONFIG.corpora.items() if isinstance(corpus, TraceCorpus)
]
RUN_MODELS = [name for name in CONFIG.models if name not in TRACE_MODELS]
TEXT_CORPORA = [name for name in CONFIG.corpora if name not in TRACE_CORPORA]
FETCHED_MODELS = [name for name in CONFIG.models if name not in DEMO_MODELS]
TRACED = list(CONFIG.capture.trace)
UNTRACED = [split for split in SHARDS if split not in TRACED]


# Routing that was recorded elsewhere has no model for a policy to run in.
POLICY_RUNS = [
    run for run in RUNS if CONFIG.policy.enabled and run.model not in TRACE_MODELS
]
# Settings that a policy is made with; those of the audit are for running it later.
POLICY_MADE = CONFIG.policy.model_dump(mode="json", exclude={"audit"})
# Settings of a search that decide what its probes and trials come to.
TUNED = CONFIG.policy.enabled and CONFIG.tuning.enabled
TABLE_SETS = list(TABLES_OF)
STUDIES = [SEARCH, CONTROL]
TUNING_TABLES = ("trials", "importances", "front")
OF_SPACE = ("space", "seed", "probes", "probe_sequences", "max_sequences", "confidence")
OF_CONSTRAINTS = ("objectives", "max_learned_share", "max_relative_loss")
MEASURED = ("space", "front_points", "max_sequences", "confidence", *OF_CONSTRAINTS)
PROBED = CONFIG.tuning.model_dump(mode="json", include=set(OF_SPACE))
AFTERWARDS = ("workers", "front_points", "max_sequences", "confidence", "choose")
SEARCHED = CONFIG.tuning.model_dump(mode="json", exclude=set(AFTERWARDS))
# Caches are replayed on decisions in their order.
SYSTEMS_RUNS = (
    RUNS if CONFIG.systems.enabled and {"heldout", "capture"} & set(TRACED) else []
)
# Runs whose model is run, profiled and offloaded.
MODEL_RUNS = [run for run in POLICY_RUNS if run in SYSTEMS_RUNS]
# What tells a model's shape; where and how it is loaded changes no results of replays and counts.
SHAPED = {
    "dtype",
    "quantisation",
    "exclude_sites",
    "experts",
    "top_k",
    "layers",
    "expert_bytes",
    "architecture",
}
SYSTEMS_OF_COSTS = {"devices", "own_devices", "costs"}
SYSTEMS_OF_CACHES = {"devices", "own_devices", "caches"}
SYSTEMS_TABLES = ["costs", "cache_simulations", "break_even"]
MODEL_TABLES = ["profiles", *(["offloaded"] if CONFIG.systems.offload.enabled else [])]
EVALUATED = {(run.model, run.corpus) for run in POLICY_RUNS}
EVALUATION_TABLES = (
    "policies",
    "evaluations",
    "gains",
    "frequencies",
    "certificates",
    "transfer",
)


def one_of(names):
    """A wildcard pattern that matches exactly these names (and nothing if there are none)."""
    return "|".join(re.escape(name) for name in names) or "(?!)"


wildcard_constraints:
    model=one_of(CONFIG.models),
    corpus=one_of(CONFIG.corpora),
    split=one_of(SHARDS),
    shard=r"\d{5}",


def code_of(script):
    """Digest of a stage's script and of the library modules it uses: an edit reruns exactly those stages."""
    # Beside these rules, wherever the workflow that uses them as a module lies.
    return code_digest(workflow.source_path(f"../workflow_scripts/{script}"))


def shards_of(model):
    """Split -> number of shards: what somebody recorded is counted or held out, for no policy can run in it."""
    splits = COUNTED_SPLITS if model in TRACE_MODELS else CAPTURED_SPLITS
    return {split: SHARDS[split] for split in splits}


def over_runs(pattern, **more):
    """Paths of a pattern for every run of the configuration."""
    return [
        path
        for run in RUNS
        for path in expand(pattern, model=run.model, corpus=run.corpus, **more)
    ]


def shard_files(wildcards, kind, split=None):
    """Paths of one kind of file of all shards of a split, in the order of the shards."""
    split = split or wildcards.split
    return [
        f"results/{wildcards.model}/{wildcards.corpus}/capture/{split}-{shard:05d}.{kind}.parquet"
        for shard in range(SHARDS[split])
    ]


def own_files(find):
    """Paths of a user's files that a job reads; none if they are not as they should be: the job says what is wrong."""
    try:
        paths = map(str, find())
    except (VarError, OSError):
        return []
    # Snakemake takes braces for wildcards, and has no way to escape them here. A storage of results holds none of them.
    return [local(path) for path in paths if "{" not in path]


def corpus_files(wildcards):
    """Local text or recorded routing of a corpus, so that an edit or a further file reads it again."""
    from var_core.corpus.files import corpus_paths, local_patterns

    config = CONFIG.corpora[wildcards.corpus]
    if not isinstance(config, FilesCorpus | TraceCorpus):
        return []
    domains = local_patterns(config.domains)
    return own_files(lambda: corpus_paths(wildcards.corpus, domains))


def corpus_objects(wildcards):
    """Addresses of a corpus's text in a storage."""
    from var_core.corpus.files import stored_objects

    config = CONFIG.corpora[wildcards.corpus]
    return stored_objects(config.domains) if isinstance(config, FilesCorpus) else []


def model_files(wildcards):
    """Files of a model or tokenizer in a local folder, so that a changed folder is recorded again."""
    from var_core.models.folder import digested_files, tokenizer_files

    config = CONFIG.models[wildcards.model]
    if isinstance(config, TraceModel) and config.tokenizer is not None:
        return own_files(lambda: tokenizer_files(Path(config.tokenizer).expanduser()))
    if not isinstance(config, FolderModel):
        return []
    return own_files(lambda: digested_files(Path(config.path).expanduser()))


def capture_settings(wildcards, input):
    """All settings of model and capture; Snakemake compares no parameter that is made from input, so none reruns."""
    model = CONFIG.models[wildcards.model]
    return {
        "model": model.model_dump(mode="json"),
        "capture": CONFIG.capture.model_dump(mode="json"),
    }


def evaluation_settings(wildcards, input):
    """What changes no results, and so reruns none: how the model is loaded, and where."""
    model = CONFIG.models[wildcards.model]
    return {
        "model": model.model_dump(mode="json"),
        "device": CONFIG.capture.device,
    }


def demo_folder(wildcards):
    """What lies beside ``model.json`` of a trained model and is loaded with it; a fetched one lies elsewhere."""
    if wildcards.model not in DEMO_MODELS:
        return []
    names = (
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    )
    return [f"results/models/{wildcards.model}/{name}" for name in names]


def trace_files(wildcards):
    """Paths of all traces of a run, split by split."""
    return [
        path
        for split in shards_of(wildcards.model)
        if split in TRACED
        for path in shard_files(wildcards, "trace", split)
    ]


def documents_file(wildcards):
    """What a run's documents are listed in: its corpus's file, or its own where they were recorded."""
    if wildcards.corpus in TRACE_CORPORA:
        return f"results/{wildcards.model}/{wildcards.corpus}/corpus/documents.parquet"
    return f"results/corpora/{wildcards.corpus}/documents.parquet"


def run_files(wildcards):
    """What the analyses of one run read: merged statistics, single shards for intervals, traces, vocabulary."""
    folder = f"results/{wildcards.model}/{wildcards.corpus}"
    files = {
        "statistics": [
            f"{folder}/statistics/{split}/{table}.parquet"
            for split in COUNTED_SPLITS
            for table in TABLES
        ],
        "shards": [
            path
            for split in COUNTED_SPLITS
            for kind in ("token_stats", "expert_counts")
            for path in shard_files(wildcards, kind, split)
        ],
        "traces": trace_files(wildcards),
        "segments": f"{folder}/statistics/segments.parquet",
        "vocabulary": f"{folder}/corpus/vocabulary.parquet",
        "manifest": f"{folder}/corpus/manifest.json",
        "model": f"results/models/{wildcards.model}/model.json",
        "documents": documents_file(wildcards),
    }
    if wildcards.model in DEMO_MODELS:
        files["training"] = f"results/models/{wildcards.model}/training.csv"
    return files


def recorded_files(wildcards):
    """What a policy is made from: counts of the capture split, traces, and documents."""
    folder = f"results/{wildcards.model}/{wildcards.corpus}"
    by_order = "capture" if "pair" in CONFIG.policy.tables else None
    return {
        "statistics": [
            f"{folder}/statistics/capture/{table}.parquet" for table in TABLES
        ],
        "fitting": shard_files(wildcards, "trace", by_order) if by_order else [],
        "calibration": shard_files(wildcards, "trace", "calibration"),
        "documents": documents_file(wildcards),
        "manifest": f"{folder}/corpus/manifest.json",
        "chosen": f"{folder}/tuning/chosen.json" if TUNED else [],
        "calibrated": [],
    }


def fitted_files(wildcards):
    """The same for tables of one choice, from which settings are chosen."""
    files = recorded_files(wildcards) | {"chosen": []}
    by_order = wildcards.tables != "token"
    return files | {
        "fitting": shard_files(wildcards, "trace", "capture") if by_order else []
    }


def search_files(wildcards):
    """The same for a search: tables are calibrated already."""
    names = CONFIG.tuning.space.needed_sets(CONFIG.policy)
    folder = f"results/{wildcards.model}/{wildcards.corpus}/tuning/tables"
    return recorded_files(wildcards) | {
        "fitting": [],
        "chosen": [],
        "calibrated": [f"{folder}/{name}.safetensors" for name in names],
    }


def study_files(wildcards, study):
    """Trials of a study's workers; the control has one."""
    folder = f"results/{wildcards.model}/{wildcards.corpus}/tuning/studies"
    workers = CONFIG.tuning.workers if study == SEARCH else 1
    return [f"{folder}/{study}-{worker}.parquet" for worker in range(workers)]


def made_files(wildcards):
    """What making a policy reads: of a search, its choice and the tables that are calibrated already."""
    if not TUNED:
        return recorded_files(wildcards)
    return search_files(wildcards) | {"chosen": recorded_files(wildcards)["chosen"]}


def evaluated_files(wildcards):
    """What evaluating a policy reads of what it was made from; traces only where arms have tables of their own."""
    files = made_files(wildcards)
    if TUNED or CONFIG.policy.predicate == "agreement":
        files |= {"fitting": [], "calibration": []}
    return files


def compared_files(wildcards):
    """The same for putting arms together: tables by token id are calibrated beside the others."""
    calibration = [] if TUNED else recorded_files(wildcards)["calibration"]
    return evaluated_files(wildcards) | {"calibration": calibration}


def policy_files(wildcards):
    """A saved policy."""
    folder = f"results/{wildcards.model}/{wildcards.corpus}/policy"
    return [
        f"{folder}/{name}"
        for name in ("policy.json", "tables.safetensors", "text.parquet")
    ]


def evaluation_tables(wildcards):
    """What came of a run's policy, as tables; none for a run without one."""
    if (wildcards.model, wildcards.corpus) not in EVALUATED:
        return []
    folder = f"results/{wildcards.model}/{wildcards.corpus}/evaluation"
    return [f"{folder}/{name}.parquet" for name in EVALUATION_TABLES]


def tuning_tables(wildcards):
    """What came of the search for its settings; none for a run without one."""
    if not TUNED or (wildcards.model, wildcards.corpus) not in EVALUATED:
        return []
    folder = f"results/{wildcards.model}/{wildcards.corpus}/tuning"
    return [f"{folder}/{name}.parquet" for name in TUNING_TABLES]


def replayed_files(wildcards):
    """What caches of experts are replayed on: unseen routing, and what was learned from other text."""
    traced = {
        name: shard_files(wildcards, "trace", split) if split in TRACED else []
        for name, split in (("heldout", "heldout"), ("seen", "capture"))
    }
    model = wildcards.model not in TRACE_MODELS
    return traced | {
        "documents": documents_file(wildcards),
        "model": f"results/models/{wildcards.model}/model.json" if model else [],
        "folder": demo_folder(wildcards),
        "policy": policy_files(wildcards) if has_policy(wildcards) else [],
        "machine": machine_file(wildcards),
    }


def has_policy(wildcards):
    """Whether a run has a policy, and its model is run."""
    return (wildcards.model, wildcards.corpus) in EVALUATED


def machine_file(wildcards):
    """What was measured of this machine with a run's model; nothing for routing that somebody recorded."""
    if not has_policy(wildcards):
        return []
    return f"results/{wildcards.model}/{wildcards.corpus}/systems/machine.json"


def broken_even_files(wildcards):
    """What is known of a run's costs."""
    folder = f"results/{wildcards.model}/{wildcards.corpus}"
    ran = has_policy(wildcards)
    return replayed_files(wildcards) | {
        "simulations": f"{folder}/systems/cache_simulations.parquet",
        "profile": f"{folder}/systems/profile.parquet" if ran else [],
        "offloaded": (
            f"{folder}/systems/offloaded.parquet"
            if ran and CONFIG.systems.offload.enabled
            else []
        ),
        "evaluated": f"{folder}/evaluation/verdict.json" if ran else [],
    }


def systems_of(run):
    """Names of the tables on what a run's routing is worth; none where that is not asked."""
    if not SYSTEMS_RUNS:
        return []
    return [*SYSTEMS_TABLES, *(MODEL_TABLES if has_policy(run) else [])]


def systems_tables(wildcards):
    """Files of these tables."""
    folder = f"results/{wildcards.model}/{wildcards.corpus}/systems"
    return [f"{folder}/{SYSTEMS_FILES[table]}" for table in systems_of(wildcards)]


def drawn_tables(wildcards):
    """What a figure of a policy, of the search for its settings, or of what routing is worth shows."""
    if wildcards.figure in OF_TUNING:
        return tuning_tables(wildcards)
    if wildcards.figure in OF_SYSTEMS:
        return systems_tables(wildcards)
    return evaluation_tables(wildcards) if wildcards.figure in OF_POLICY else []


def split_shards(wildcards, split):
    """Sequences of a split."""
    return [
        f"results/{wildcards.model}/{wildcards.corpus}/corpus/{split}-{shard:05d}.parquet"
        for shard in range(SHARDS[split])
    ]


def heldout_shards(wildcards):
    """Held-out sequences."""
    return split_shards(wildcards, "heldout")


def warehouse_files(wildcards):
    """Everything of every run that goes into the database."""
    files = set()
    for run in RUNS:
        for paths in run_files(run).values():
            files.update([paths] if isinstance(paths, str) else paths)
        files.add(f"results/{run.model}/{run.corpus}/hypotheses/verdicts.parquet")
        files.update(evaluation_tables(run))
        files.update(tuning_tables(run))
        files.update(systems_tables(run))
    return sorted(files)


def summary_files(wildcards):
    """What the one-page summary reads."""
    folder = f"results/{wildcards.model}/{wildcards.corpus}"
    files = {
        "verdicts": f"{folder}/hypotheses/verdicts.json",
        "meaning": f"{folder}/hypotheses/meaning.txt",
        "manifest": f"{folder}/corpus/manifest.json",
    }
    if wildcards.model in DEMO_MODELS:
        files["training"] = f"results/models/{wildcards.model}/training.json"
    if (wildcards.model, wildcards.corpus) in EVALUATED:
        files["policy"] = f"{folder}/evaluation/verdict.json"
        if TUNED:
            files["tuning"] = f"{folder}/tuning/summary.json"
    if SYSTEMS_RUNS:
        files["systems"] = f"{folder}/systems/verdict.json"
    return files
