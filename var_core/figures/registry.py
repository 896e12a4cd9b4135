"""The figures there are. Read when the workflow is parsed, so it imports nothing."""

FIGURES: tuple[str, ...] = (
    "frequency_entropy",
    "entropy_distribution",
    "routing_consistency",
    "fast_path_coverage",
    "routing_heatmap",
    "expert_load",
    "coactivation",
    "loss_curve",
)
"""Names of all figures, in the order in which they are told; each is drawn by the module of the same name."""

OF_TRAINING: tuple[str, ...] = ("loss_curve",)
"""Those that show how a model was trained, so are there only for models that the workflow trained."""


def figures_of(trained: bool) -> tuple[str, ...]:
    """Names of the figures of a run.

    Parameters
    ----------
    trained : bool
        Whether the workflow trained its model.
    """
    return tuple(name for name in FIGURES if trained or name not in OF_TRAINING)


def label(name: str) -> str:
    """Write a figure's name for reading, for example ``Fast path coverage``."""
    return name.replace("_", " ").capitalize()
