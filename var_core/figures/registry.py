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
    "breakdown",
    "cache_hits",
    "break_even",
)
"""Names of all figures, in the order in which they are told; each is drawn by the module of the same name."""

OF_TRAINING: tuple[str, ...] = ("loss_curve",)
"""Those that show how a model was trained, so are there only for models that the workflow trained."""

OF_POLICY: tuple[str, ...] = tuple(name for name in FIGURES if name.startswith("policy_"))
"""Those that show what a policy came to on unseen text, so are there only for runs with one."""

OF_TUNING: tuple[str, ...] = tuple(name for name in FIGURES if name.startswith("tuning_"))
"""Those that show how a policy's settings were searched, so are there only for runs whose policy was tuned."""

OF_SYSTEMS: tuple[str, ...] = ("breakdown", "cache_hits", "break_even")
"""Those that show what predictable routing is worth, so are there only where that was asked."""

OF_PROFILE: tuple[str, ...] = ("breakdown",)
"""Those of them that show how a model was timed, so are there only for runs whose model was run under a policy."""


def figures_of(trained: bool, policy: bool, tuned: bool, systems: bool) -> tuple[str, ...]:
    """Names of the figures of a run.

    Parameters
    ----------
    trained : bool
        Whether the workflow trained its model.
    policy : bool
        Whether a policy was made and evaluated.
    tuned : bool
        Whether its settings were searched.
    systems : bool
        Whether it was asked what its routing is worth.
    """
    there = {OF_TRAINING: trained, OF_POLICY: policy, OF_TUNING: tuned, OF_SYSTEMS: systems, OF_PROFILE: policy}
    left_out = {name for names, known in there.items() if not known for name in names}
    return tuple(name for name in FIGURES if name not in left_out)


def label(name: str) -> str:
    """Write a figure's name for reading, for example ``Fast path coverage``."""
    return name.replace("_", " ").capitalize()
