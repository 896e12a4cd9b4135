"""HumanEval: generated programs that pass their tests, with and without a policy (Chen et al. 2021)."""

import platform
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from pydantic import TypeAdapter, ValidationError

import var_core
from var_core.errors import VarError
from var_core.evaluation import pass_at_k
from var_core.evaluation.generation import GenerationSettings, generate_completions
from var_core.evaluation.humaneval_tasks import TaskSet
from var_core.evaluation.pass_at_k import Comparison, PassAtK
from var_core.evaluation.sandbox.program import Limits, Outcome
from var_core.evaluation.sandbox.run import run_programs
from var_core.files import read_json, write_json


@dataclass(frozen=True)
class Sample:
    """One completion and what became of its program.

    Attributes
    ----------
    task_id : str
    completion : str
    outcome : Outcome
    output : str
        The last lines that the program printed.
    seconds : float
    """

    task_id: str
    completion: str
    outcome: Outcome
    output: str
    seconds: float


@dataclass(frozen=True)
class HumanEvalRun:
    """All completions of one model, and all that another run must share to be compared with it.

    Attributes
    ----------
    name : str
        For example ``"plain"`` or the name of a policy.
    about : dict
        Names and digests of model and policy, as the caller states them.
    source, revision, tasks_digest : str
        Where the tasks are from, and what they are.
    samples_per_task : int
    generation : GenerationSettings or None
        None for completions from elsewhere.
    limits : Limits
    sandboxed : bool
        False if the programs ran without a sandbox.
    versions : dict
        Of Python, which also ran the programs, of the system, and of the libraries.
    samples : tuple of Sample
        In the order of the tasks.
    """

    name: str
    about: dict[str, str]
    source: str
    revision: str | None
    tasks_digest: str
    samples_per_task: int
    generation: GenerationSettings | None
    limits: Limits
    sandboxed: bool
    versions: dict[str, str]
    samples: tuple[Sample, ...]

    @property
    def passed(self) -> list[int]:
        """How many samples of each task passed."""
        counts = dict.fromkeys((sample.task_id for sample in self.samples), 0)
        for sample in self.samples:
            counts[sample.task_id] += sample.outcome is Outcome.PASSED
        return list(counts.values())

    @property
    def outcomes(self) -> dict[str, int]:
        """How many samples ended in which way."""
        return dict(Counter(str(sample.outcome) for sample in self.samples))

    def pass_at(self, k: int, confidence: float = 0.95, seed: int = 0) -> PassAtK:
        """Estimate pass@k, with its interval over tasks."""
        return pass_at_k.mean_pass_at_k(self.samples_per_task, self.passed, k, confidence, seed=seed)


def evaluate(
    name: str,
    model: Any,
    tokenizer: Any,
    tasks: TaskSet,
    settings: GenerationSettings | None = None,
    inside: AbstractContextManager[Any] | None = None,
    about: dict[str, str] | None = None,
    limits: Limits | None = None,
    workers: int = 1,
    unsafe: bool = False,
) -> HumanEvalRun:
    """Let a model complete every task, and run what it wrote.

    Parameters
    ----------
    name : str
        What the run is called, for example ``"plain"``.
    model, tokenizer, settings, inside
        As in :func:`var_core.evaluation.generation.generate_completions`.
    tasks : TaskSet
    about : dict, optional
        Names and digests of model and policy, to be kept with the result.
    limits, workers, unsafe
        As in :func:`var_core.evaluation.sandbox.run.run_programs`.
    """
    chosen = settings or GenerationSettings()
    prompts = [task.prompt for task in tasks.tasks]
    completions = generate_completions(model, tokenizer, prompts, chosen, inside, f"HumanEval {name}: generate")
    return judge(name, tasks, completions, chosen, about, limits, workers, unsafe)


def judge(
    name: str,
    tasks: TaskSet,
    completions: Sequence[Sequence[str]],
    settings: GenerationSettings | None = None,
    about: dict[str, str] | None = None,
    limits: Limits | None = None,
    workers: int = 1,
    unsafe: bool = False,
) -> HumanEvalRun:
    """Run completions that exist already; parameters as :func:`evaluate`.

    Parameters
    ----------
    completions : sequence of sequence of str
        For each task, equally many.
    """
    if len(completions) != len(tasks.tasks) or len({len(each) for each in completions}) != 1:
        raise VarError(f"HumanEval {name}: need equally many completions for each of {len(tasks.tasks)} tasks")
    pairs = [(task, text) for task, texts in zip(tasks.tasks, completions, strict=True) for text in texts]
    programs = [task.program(text) for task, text in pairs]
    chosen = limits or Limits()
    results = run_programs(programs, chosen, workers, unsafe, f"HumanEval {name}: run")
    samples = [
        Sample(task.task_id, text, result.outcome, result.output, result.seconds)
        for (task, text), result in zip(pairs, results, strict=True)
    ]
    return HumanEvalRun(
        name=name,
        about=dict(about or {}),
        source=tasks.source,
        revision=tasks.revision,
        tasks_digest=tasks.digest,
        samples_per_task=len(completions[0]),
        generation=settings,
        limits=chosen,
        sandboxed=not unsafe,
        versions=_versions(),
        samples=tuple(samples),
    )


def compare_runs(
    first: HumanEvalRun, second: HumanEvalRun, k: int = 1, confidence: float = 0.95, seed: int = 0
) -> Comparison:
    """Compare a second run with a first one, task by task.

    Raises
    ------
    VarError
        If the runs are not of the same tasks, generated and run in the same way.
    """
    for what in ("tasks_digest", "samples_per_task", "generation", "limits", "sandboxed"):
        if getattr(first, what) != getattr(second, what):
            raise VarError(f"HumanEval {first.name}, {second.name}: differ in {what}; run both in the same way")
    return pass_at_k.compare(first.samples_per_task, first.passed, second.passed, k, confidence, seed=seed)


def write_run(run: HumanEvalRun, path: Path) -> None:
    """Write a run as JSON, with its counts for a reader who does not want to add up."""
    passed = run.passed
    counts = {"tasks": len(passed), "samples": len(run.samples), "tasks_with_a_pass": sum(each > 0 for each in passed)}
    write_json(path, {**asdict(run), "counts": {**counts, **run.outcomes}})


def read_run(path: Path) -> HumanEvalRun:
    """Read what :func:`write_run` has written.

    Raises
    ------
    VarError
        If the file is missing, or is not a run, or its counts are not those of its samples.
    """
    value = read_json(path)
    try:
        counts = value.pop("counts")
        run = TypeAdapter(HumanEvalRun).validate_python(value)
    except (ValidationError, KeyError, AttributeError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise VarError(f"{path}: not a HumanEval run ({reason}); delete it and run HumanEval again") from None
    if any(counts.get(outcome) != count for outcome, count in run.outcomes.items()):
        raise VarError(f"{path}: its counts are not those of its samples; delete it and run HumanEval again")
    return run


def _versions() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "var_core": var_core.__version__,
    }
