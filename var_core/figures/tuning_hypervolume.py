"""How fast the search gets somewhere: hypervolume against trials, beside as many trials at random."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from var_core.config.tuning import TuningConfig
from var_core.figures.sources import Drawing, Sources, number
from var_core.figures.style import COLUMN, legend_below, new_figure
from var_core.figures.tunings import SAMPLERS, STUDIES, STUDY_COLOURS, Floats, settings_of
from var_core.tuning.trials import CONTROL, SEARCH

NEEDS = ("tuning",)
"""What must have been recorded of the run."""

_LABELS = {SEARCH: "search", CONTROL: "at random"}
_WORDS = {SEARCH: "the search", CONTROL: "random trials"}

Curves = dict[str, tuple[Floats, Floats]]
"""Study -> trials so far, and their hypervolume."""


def draw(sources: Sources) -> Drawing:
    """Draw a line a study."""
    curves = measure_curves(sources)
    figure = new_figure(COLUMN, 2.4)
    panel = figure.subplots()
    _draw_curves(panel, curves)
    panel.set_title("hypervolume over trials", loc="left")
    legend_below(figure, [panel])
    return Drawing(figure, _caption(curves, sources))


def measure_curves(sources: Sources) -> Curves:
    """Hypervolume by number of trials."""
    rows = sources.query(
        """
        SELECT study, number + 1 AS trials, hypervolume FROM tuning_trials
        WHERE run = $run ORDER BY study, number
        """
    )
    study = np.array(rows["study"].to_pylist(), dtype=str)
    trials, volume = (rows[name].to_numpy().astype(np.float64) for name in ("trials", "hypervolume"))
    return {name: (trials[study == name], volume[study == name]) for name in STUDIES}


def _draw_curves(panel: Axes, curves: Curves) -> None:
    for name, (trials, volume) in curves.items():
        panel.plot(
            trials, volume, drawstyle="steps-post", color=STUDY_COLOURS[name], label=_LABELS[name],
            linestyle="-" if name == SEARCH else (0, (4, 1.5)),
        )  # fmt: skip
    panel.set_xlim(0, 1.02 * max(trials[-1] for trials, _ in curves.values()))
    panel.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    panel.set_xlabel("trials")
    panel.set_ylabel("hypervolume (share × nats)")


def _caption(curves: Curves, sources: Sources) -> str:
    settings = settings_of(sources)
    ends = [f"{number(volume[-1], 4)} for {_WORDS[name]}" for name, (_, volume) in reversed(curves.items())]
    return (
        "How fast does the search get somewhere? The hypervolume is the area of learned share and modelled loss that "
        "the trials so far are better than, up to a fixed worst point; larger is better, and it never falls. Both "
        "studies have the same number of trials and begin with the same two; then the search goes by "
        f"{SAMPLERS[settings.sampler]} (seed {settings.seed}). At the end the hypervolume is {' and '.join(ends)}."
        f"{_sooner(curves)}{_alone(settings)} A study is one draw of its seed, and another one may come out otherwise."
    )


def _sooner(curves: Curves) -> str:
    """Say after how many trials the search had what random trials came to."""
    (trials, volume), last = curves[SEARCH], curves[CONTROL][1][-1]
    reached = volume >= last
    if not reached.any():
        return " The search did not come to what random trials came to."
    return f" What random trials came to the search had after {trials[reached.argmax()]:.0f} trials."


def _alone(settings: TuningConfig) -> str:
    """Say what a search of one objective does not go by."""
    if len(settings.objectives) > 1:
        return ""
    return f" Only the {settings.objectives[0].replace('_', ' ')} was made small, so that the search does not go by it."
