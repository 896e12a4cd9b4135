"""Compare models of the loss on the probes of a run: python tests/tuning/measure_loss_models.py results/MODEL/CORPUS.

Root mean square error of each probe predicted from the others, nats a token; see docs/decisions/0013-*.md.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from var_core.files import read_json
from var_core.tuning.loss_model import fit_loss_model


def left_out(explaining: np.ndarray, losses: np.ndarray) -> float:
    """Least squares without more ado, each probe predicted from the others."""
    misses = []
    for place in range(len(losses)):
        kept = np.arange(len(losses)) != place
        found = np.linalg.lstsq(explaining[kept], losses[kept], rcond=None)[0]
        misses.append(explaining[place] @ found - losses[place])
    return float(np.sqrt(np.mean(np.square(misses))))


def main(folder: Path) -> None:
    """Print a line for each model of the loss."""
    probes = read_json(folder / "tuning" / "loss_model.json")["probes"]
    explaining = np.array([probe["explaining"] for probe in probes])
    losses = np.array([probe["loss_difference"] for probe in probes])
    misplaced, replaced = explaining[:, :-1], explaining[:, -1:]
    mean = misplaced.mean(axis=1, keepdims=True)
    models: dict[str, Callable[[], float]] = {
        "none: zero": lambda: float(np.sqrt(np.mean(losses**2))),
        "mean misplaced weight": lambda: left_out(mean, losses),
        "its square": lambda: left_out(mean**2, losses),
        "misplaced weight by layer, free": lambda: left_out(misplaced, losses),
        "mean misplaced weight, replaced share": lambda: left_out(np.hstack([mean, replaced]), losses),
        "misplaced weight by layer, free, replaced share": lambda: left_out(explaining, losses),
        "chosen: by layer, held together and not negative, replaced share": lambda: (
            fit_loss_model(explaining, losses, 1.0).error
        ),
    }
    for name, error in models.items():
        print(f"| {name} | {error():.5f} |")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
