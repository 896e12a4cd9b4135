"""The figures stage: draw one figure of a run and save it."""

import importlib
import importlib.util
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any

from matplotlib.figure import Figure

from var_core.config.figures import FiguresConfig
from var_core.errors import VarError
from var_core.figures.registry import label
from var_core.figures.sources import Drawing, Sources
from var_core.figures.style import COLUMN, empty_panel, new_figure, styled
from var_core.files import read_json, written_aside
from var_core.hypotheses.results import read_verdicts
from var_core.parquet import read_provenance
from var_core.warehouse.files import RunFiles
from var_core.warehouse.run import open_run


def draw_figure(name: str, files: RunFiles, verdicts: Path, config: FiguresConfig, output: Path, code: str) -> None:
    """Draw a figure, and save it as PNG and as vector files, with its caption as text beside them.

    The same run gives the same bytes. All files of the figure are written, or none.

    Parameters
    ----------
    name : str
        One of ``var_core.figures.registry.FIGURES``.
    files : RunFiles
        Files of the run.
    verdicts : Path
        The run's ``verdicts.json``.
    config : FiguresConfig
        Resolution and vector formats.
    output : Path
        The PNG file; the others have its name with ``.svg``, ``.pdf`` and ``.txt``.
    code : str
        Digest of the code that draws it; kept in the files' metadata.

    Raises
    ------
    VarError
        If there is no such figure, or a file of the run is missing or does not belong to it.
    """
    module = _module(name)
    record = files.model_record.with_name("training.json")
    training = read_json(record) if files.training is not None else None
    evaluated = read_provenance(files.evaluation["evaluations"])["config"] if files.evaluation else None
    tuned = read_provenance(files.tuning["tuning_front"])["config"] if files.tuning else None
    replayed = read_provenance(files.systems["cache_simulations"])["config"] if files.systems else None
    with open_run(files) as connection, styled():
        sources = Sources(connection, files.run, read_verdicts(verdicts), training, evaluated, tuned, replayed)
        missing = sources.missing(getattr(module, "NEEDS", ()))
        drawing = not_drawn(name, missing) if missing else module.draw(sources)
        _save(drawing.figure, drawing.caption, f"{name} of {files.run}", config, output, code)


def not_drawn(name: str, reason: str) -> Drawing:
    """Give a plain panel that says why there is nothing to see."""
    figure = new_figure(COLUMN, 1.2)
    empty_panel(figure.subplots(), reason.replace("; ", "\n"))
    return Drawing(figure, f"{label(name)}: not drawn, because {reason}.")


def _module(name: str) -> ModuleType:
    """Import a figure's module by its name, so that an edit of one figure changes the code of no other."""
    found = importlib.util.find_spec(f"var_core.figures.{name}") if name.isidentifier() else None
    module = importlib.import_module(f"var_core.figures.{name}") if found else None
    if module is None or not hasattr(module, "draw"):
        raise VarError(f"{name}: no such figure; var_core.figures.registry.FIGURES has all names")
    return module


def _save(figure: Figure, caption: str, title: str, config: FiguresConfig, output: Path, code: str) -> None:
    with ExitStack() as files:
        for kind in ("png", *config.formats):
            aside = files.enter_context(written_aside(output.with_suffix(f".{kind}")))
            figure.savefig(aside, format=kind, dpi=config.dpi, metadata=_metadata(kind, title, code))
        text = files.enter_context(written_aside(output.with_suffix(".txt")))
        text.write_text(f"{caption}\n", encoding="utf-8")


def _metadata(kind: str, title: str, code: str) -> dict[str, Any]:
    """What the file says about itself: no time, so that the same figure gives the same bytes."""
    made_by = f"var-core, code {code}"
    if kind == "png":
        return {"Title": title, "Description": made_by}
    if kind == "svg":
        return {"Title": title, "Description": made_by, "Date": None}
    return {"Title": title, "Subject": made_by, "CreationDate": None}
