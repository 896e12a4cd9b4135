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
    "tuning_front",
    "tuning_hypervolume",
    "tuning_estimate",
    "tuning_slices",
    "policy_quality",
    "policy_ways",
    "policy_frequency",
    "policy_gain",
    "policy_transfer",
)
"""Names of all figures, in the order in which they are told; each is drawn by the module of the same name."""

OF_TRAINING: tuple[str, ...] = ("loss_curve",)
"""Those that show how a model was trained, so are there only for models that the workflow trained."""

OF_POLICY: tuple[str, ...] = tuple(name for name in FIGURES if name.startswith("policy_"))
"""Those that show what a policy came to on unseen text, so are there only for runs with one."""

OF_TUNING: tuple[str, ...] = tuple(name for name in FIGURES if name.startswith("tuning_"))
"""Those that show how a policy's settings were searched, so are there only for runs whose policy was tuned."""


def figures_of(trained: bool, policy: bool, tuned: bool) -> tuple[str, ...]:
    """Names of the figures of a run.

    Parameters
    ----------
    trained : bool
        Whether the workflow trained its model.
    policy : bool
        Whether a policy was made and evaluated.
    tuned : bool
        Whether its settings were searched.
    """
    left_out = {*(() if trained else OF_TRAINING), *(() if policy else OF_POLICY), *(() if tuned else OF_TUNING)}
    return tuple(name for name in FIGURES if name not in left_out)


def label(name: str) -> str:
    """Write a figure's name for reading, for example ``Fast path coverage``."""
    return name.replace("_", " ").capitalize()
