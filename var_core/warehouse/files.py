"""Where the files of a run are."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from var_core.config.corpus import CAPTURED_SPLITS, COUNTED_SPLITS
from var_core.errors import VarError
from var_core.parquet import read_provenance
from var_core.statistics.tables import SCHEMAS

TRACE_KIND = "trace"

EVALUATION_FILES = {
    "policies": "policies.parquet",
    "evaluations": "evaluations.parquet",
    "policy_gains": "gains.parquet",
    "policy_frequencies": "frequencies.parquet",
    "certificates": "certificates.parquet",
    "transfer": "transfer.parquet",
}
"""Table -> file in the folder ``evaluation`` of a run that has a policy; it has all of them or none."""

TUNING_FILES = {
    "tuning_trials": "trials.parquet",
    "tuning_importances": "importances.parquet",
    "tuning_front": "front.parquet",
}
"""Table -> file in the folder ``tuning`` of a run whose policy's settings were searched; all of them or none."""

SYSTEMS_FILES = {
    "costs": "costs.parquet",
    "profiles": "profile.parquet",
    "cache_simulations": "cache_simulations.parquet",
    "offloaded": "offloaded.parquet",
    "break_even": "break_even.parquet",
}
"""Table -> file in the folder ``systems`` of a run; those of a model that is run are missing where none is."""


@dataclass(frozen=True)
class RunFiles:
    """The files of one run that go into the warehouse.

    Attributes
    ----------
    run, model, corpus : str
        Names; a run is called ``{model}/{corpus}``.
    statistics : mapping of str to Path
        Split -> folder with ``token_stats.parquet``, ``expert_counts.parquet`` and ``layer_stats.parquet``.
    traces : mapping of str to tuple of Path
        Split -> trace files in the order of shards; no entry, or an empty one, for a split that was not traced.
    shard_token_stats : mapping of str to tuple of Path
        Split -> ``{split}-{shard}.token_stats.parquet`` in the order of shards.
    vocabulary, corpus_manifest, model_record : Path
        ``vocabulary.parquet``, the corpus's ``manifest.json`` and the model's ``model.json``.
    training : Path or None
        ``training.csv`` of a model that was trained by this workflow.
    verdicts : Path or None
        ``verdicts.parquet`` of the hypotheses stage, where it has run.
    shard_expert_counts : mapping of str to tuple of Path, optional
        As `shard_token_stats`, for expert counts.
    documents : Path or None, optional
        ``documents.parquet`` of the corpus, or of the recording, where it is there.
    segments : Path or None, optional
        ``segments.parquet``, measured on the traces, where it is there.
    evaluation : mapping of str to Path, optional
        Table -> file of :data:`EVALUATION_FILES`; empty for a run without a policy.
    tuning : mapping of str to Path, optional
        Table -> file of :data:`TUNING_FILES`; empty for a run whose policy was not tuned.
    systems : mapping of str to Path, optional
        Table -> file of :data:`SYSTEMS_FILES`, of those that the run has.
    """

    run: str
    model: str
    corpus: str
    statistics: Mapping[str, Path]
    traces: Mapping[str, tuple[Path, ...]]
    shard_token_stats: Mapping[str, tuple[Path, ...]]
    vocabulary: Path
    corpus_manifest: Path
    model_record: Path
    training: Path | None
    verdicts: Path | None
    shard_expert_counts: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    documents: Path | None = None
    segments: Path | None = None
    evaluation: Mapping[str, Path] = field(default_factory=dict)
    tuning: Mapping[str, Path] = field(default_factory=dict)
    systems: Mapping[str, Path] = field(default_factory=dict)

    @classmethod
    def in_results(
        cls,
        results: Path,
        model: str,
        corpus: str,
        shards: Mapping[str, int] | None = None,
        traced: Collection[str] | None = None,
        evaluated: bool | None = None,
        tuned: bool | None = None,
        systems: Collection[str] | None = None,
    ) -> "RunFiles":
        """Find the files of a run in a results folder.

        Parameters
        ----------
        results : Path
            The folder ``results``.
        model, corpus : str
            Names in the configuration.
        shards : mapping of str to int, optional
            Split -> number of shards, for all splits that the run has. Without it, the number is what the provenance
            of the merged statistics says, or, where they are not there, the number of files. Exactly these shards are
            named, and files of further ones, left by an earlier configuration with more shards, are passed over.
        traced : collection of str, optional
            Splits that keep a trace; traces of others, left by an earlier configuration, are passed over. Without
            it, the splits with trace files.
        evaluated : bool, optional
            Whether the run has an evaluated policy; files of one left by an earlier configuration, or being written
            meanwhile, are passed over. Without it, whether one of the files is there: then all of them are named.
        tuned : bool, optional
            The same of a policy whose settings were searched.
        systems : collection of str, optional
            Tables of :data:`SYSTEMS_FILES` that the run has; files of others are passed over. Without it, those whose
            files are there.

        Returns
        -------
        RunFiles
            Traces, training record and verdicts only as far as they exist; everything else is named whether it
            exists or not.
        """
        folder = results / model / corpus
        trained = results / "models" / model / "training.csv"
        verdicts = folder / "hypotheses" / "verdicts.parquet"
        segments = folder / "statistics" / "segments.parquet"
        recorded = folder / "corpus" / "documents.parquet"
        documents = recorded if recorded.exists() else results / "corpora" / corpus / "documents.parquet"

        numbers = {
            split: shards[split] if shards else _merged_shards(folder / "statistics" / split)
            for split in CAPTURED_SPLITS
            if not shards or split in shards
        }

        def captured(kind: str, splits: Collection[str]) -> dict[str, tuple[Path, ...]]:
            return {
                split: _shard_files(folder / "capture", split, kind, number)
                for split, number in numbers.items()
                if split in splits
            }

        return cls(
            run=f"{model}/{corpus}",
            model=model,
            corpus=corpus,
            statistics={split: folder / "statistics" / split for split in COUNTED_SPLITS},
            traces={
                split: paths if traced is None or split in traced else ()
                for split, paths in captured(TRACE_KIND, CAPTURED_SPLITS).items()
            },
            shard_token_stats=captured("token_stats", COUNTED_SPLITS),
            vocabulary=folder / "corpus" / "vocabulary.parquet",
            corpus_manifest=folder / "corpus" / "manifest.json",
            model_record=results / "models" / model / "model.json",
            training=trained if trained.exists() else None,
            verdicts=verdicts if verdicts.exists() else None,
            shard_expert_counts=captured("expert_counts", COUNTED_SPLITS),
            documents=documents if documents.exists() else None,
            segments=segments if segments.exists() else None,
            evaluation=_all_or_none(folder / "evaluation", EVALUATION_FILES, evaluated),
            tuning=_all_or_none(folder / "tuning", TUNING_FILES, tuned),
            systems={
                table: folder / "systems" / name
                for table, name in SYSTEMS_FILES.items()
                if (table in systems if systems is not None else (folder / "systems" / name).exists())
            },
        )

    @property
    def traced_splits(self) -> list[str]:
        """Splits that have trace files."""
        return [split for split, paths in self.traces.items() if paths]

    def statistics_file(self, split: str, kind: str) -> Path:
        """Path of a table of merged statistics: ``token_stats``, ``expert_counts`` or ``layer_stats``."""
        return self.statistics[split] / f"{kind}.parquet"

    def captured(self) -> Iterator[tuple[str, str, Path]]:
        """Give (split, kind, path) of every Parquet file with decisions or statistics of them."""
        for split in self.statistics:
            for kind in SCHEMAS:
                yield split, kind, self.statistics_file(split, kind)
        by_kind = (
            ("token_stats", self.shard_token_stats),
            ("expert_counts", self.shard_expert_counts),
            (TRACE_KIND, self.traces),
        )
        for kind, by_split in by_kind:
            for split, paths in by_split.items():
                for path in paths:
                    yield split, kind, path


def shard_number(path: Path) -> int:
    """Read the number of a shard from its file's name, ``{split}-{shard}.{kind}.parquet``.

    Raises
    ------
    VarError
        If the name is of another form.
    """
    digits = path.name.split(".")[0].rpartition("-")[2]
    if not digits.isdecimal():
        raise VarError(f"{path}: not the name of a shard's file, which ends in -00000.token_stats.parquet or alike")
    return int(digits)


def _all_or_none(folder: Path, files: Mapping[str, str], there: bool | None) -> dict[str, Path]:
    """Name the files of a stage that not every run has; where it is not told, those of which one is there."""
    paths = {table: folder / name for table, name in files.items()}
    if there is None:
        there = any(path.exists() for path in paths.values())
    return paths if there else {}


def _merged_shards(statistics: Path) -> int | None:
    """Read from how many shards statistics were merged; None if they are not there or do not say."""
    path = statistics / "layer_stats.parquet"
    number = read_provenance(path).get("shards") if path.exists() else None
    return number if isinstance(number, int) else None


def _shard_files(folder: Path, split: str, kind: str, shards: int | None) -> tuple[Path, ...]:
    found = sorted(folder.glob(f"{split}-*.{kind}.parquet"), key=shard_number)
    if shards is None or (kind == TRACE_KIND and not found):
        return tuple(found)
    return tuple(folder / f"{split}-{shard:05d}.{kind}.parquet" for shard in range(shards))
