"""A made-up search for a policy's settings, in the tables that the tuning stages write; no policy was replayed."""

import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from var_core.config.tuning import TuningConfig
from var_core.files import digest_of
from var_core.parquet import write_table
from var_core.tuning.trials import CLASSIC, CONFIGURED, CONTROL, FRONT, IMPORTANCES, SEARCH, TRIALS

VALUES = ("learned_share", "loss_difference", "relative_loss", "set_agreement", "recall_at_k", "misplaced")
MEASURES = VALUES[:4]
REFERENCE = 1.0, 0.6
"""Share and loss that the hypervolume is measured from."""
PLAIN_LOSS = 3.2


@dataclass(frozen=True)
class SimulatedTuning:
    """A study of so many trials, and the control beside it; every 12th trial of the search failed."""

    trials: int = 60
    layers: int = 4
    objectives: tuple[str, ...] = ("learned_share", "loss_difference")
    importances: bool = True
    classic: bool = True
    caches: bool = True
    front_points: int = 6
    intervals: bool = True
    seed: int = 0

    @property
    def confidence(self) -> float | None:
        """Of the intervals, if there are any."""
        return 0.95 if self.intervals else None

    @property
    def config(self) -> TuningConfig:
        """Settings of the study."""
        return TuningConfig(
            trials=self.trials, objectives=self.objectives, front_points=self.front_points, confidence=self.confidence
        )

    @property
    def provenance(self) -> dict:
        """What the files say of themselves, but for what they were made from."""
        return {"stage": "tuning", "config": self.config.model_dump(mode="json", exclude={"workers"}), "code": "c0de"}

    def tables(self) -> dict[str, pa.Table]:
        """All tables, without the run."""
        random = np.random.default_rng(self.seed)
        search, control = (self._study(study, random) for study in (SEARCH, CONTROL))
        rows = [*search, *control]
        return {
            "tuning_trials": pa.Table.from_pylist(rows, TRIALS),
            "tuning_importances": pa.Table.from_pylist(self._importances(random), IMPORTANCES),
            "tuning_front": pa.Table.from_pylist(self._front(search, random), FRONT),
        }

    def write(self, folder: Path, statistics: dict) -> None:
        """Write the files of a run's folder ``tuning``; `statistics` is the provenance of its capture split's."""
        made_from = {
            "model": statistics["model"]["digest"],
            "corpus": statistics["corpus"]["digest"],
            "statistics": digest_of(statistics),
        }
        for table, rows in self.tables().items():
            write_table(
                folder / f"{table.removeprefix('tuning_')}.parquet", rows, self.provenance | {"made_from": made_from}
            )

    def _study(self, study, random):
        rows = [self._trial(study, number, random) for number in range(self.trials)]
        complete = [row for row in rows if row["state"] == "complete"]
        for row in front_of(complete):
            row["on_front"] = True
        for number, row in enumerate(rows):
            row["hypervolume"] = hypervolume([each for each in complete if each["number"] <= number])
        return rows

    def _trial(self, study, number, random):
        if number < 2:
            # Every study begins with the same.
            random = np.random.default_rng([self.seed, number])
        began_as = (CLASSIC, CONFIGURED)[number] if number < 2 else None
        predicate = "agreement" if began_as == CONFIGURED or random.random() < 0.7 or not self.classic else "classic"
        row = {
            "study": study,
            "number": number,
            "worker": number % 2,
            "state": "failed" if study == SEARCH and number % 12 == 7 else "complete",
            "began_as": began_as,
            "on_front": False,
            "tables": random.choice(["token", "pair", "position"]),
            "weights": "stored",
        }
        row |= self._thresholds("classic" if began_as == CLASSIC else predicate, random)
        row |= self._cache(random)
        if row["state"] == "complete":
            # The search comes to good settings with time; settings at random do not.
            luck = random.random()
            if study == SEARCH and not began_as:
                luck *= 0.1 + 0.9 * np.exp(-5 * number / self.trials)
            row |= self._values(row, luck, random) | {"seconds": 0.05 + 0.02 * random.random()}
        return row

    def _thresholds(self, predicate, random):
        several = random.random() < 0.5
        many = self.layers if several else 1
        row = {"predicate": predicate, "thresholds": "by_layer" if several else "global"}
        if predicate == "agreement":
            return row | {"agreement_threshold": random.random(many).tolist()}
        return row | {
            "frequency_threshold": (10 ** (3 * random.random(many))).astype(int).tolist(),
            "entropy_threshold": (0.1 + 2.9 * random.random(many)).tolist(),
        }

    def _cache(self, random):
        capacity = int(random.choice([0, 64, 256, 1024])) if self.caches else 0
        if not capacity:
            return {"capacity": 0}
        return {
            "capacity": capacity,
            "context_window": int(random.integers(2, 13)),
            "time_to_live": int(16 * 256 ** random.random()),
            "confidence_threshold": random.random(),
        }

    def _values(self, row, luck, random):
        threshold = row.get("agreement_threshold")
        share = np.mean(threshold) ** 1.5 if threshold else 0.4 + 0.4 * random.random()
        share = 0.02 + 0.9 * share * (0.8 if row["capacity"] else 1)
        loss = 0.35 * (1 - share) ** 3 * (1 + 0.8 * luck) + 0.02 * luck + (0.05 if not threshold else 0)
        return self._measures(share, loss, random) | {
            "recall_at_k": 0.95, "misplaced": 0.4 * (1 - share),
            "violation": max(share / 0.15, loss / PLAIN_LOSS / 0.05) - 1,
        }  # fmt: skip

    @staticmethod
    def _measures(share, loss, random):
        agreement = 0.6 + 0.35 * share + 0.02 * random.random()
        return dict(zip(MEASURES, map(float, (share, loss, loss / PLAIN_LOSS, agreement)), strict=True))

    def _importances(self, random):
        parameters = ["agreement_threshold", "predicate", "tables", "thresholds", "capacity", "confidence_threshold"]
        parameters += ["context_window", "time_to_live", "frequency_threshold", "entropy_threshold"]
        if not self.importances:
            return []
        return [
            {"study": study, "objective": objective, "parameter": parameter, "importance": float(importance)}
            for study, objective in itertools.product((SEARCH, CONTROL), MEASURES[:2])
            for parameter, importance in zip(parameters, random.dirichlet(0.3 / np.arange(1, 11) + 0.05), strict=True)
        ]

    def _front(self, search, random):
        front = sorted((row for row in search if row["on_front"]), key=lambda row: row["learned_share"])
        places = np.unique(np.linspace(0, len(front) - 1, self.front_points).round().astype(int))
        points = [(f"front-{order}", front[place]) for order, place in enumerate(places)]
        chosen = points[len(points) // 2][0]
        points += [(row["began_as"], row) for row in search[:2]]
        rows = []
        for point, trial in points:
            measured = self._measures(
                min(1.0, trial["learned_share"] * (1 + 0.05 * random.normal())),
                trial["loss_difference"] * (1.1 + 0.1 * random.normal()),
                random,
            )
            for measure, value in measured.items():
                half = 0.02 + 0.03 * value if measure != "relative_loss" else (0.02 + 0.03 * value) / PLAIN_LOSS
                ends = {"low": value - half, "high": value + half} if self.intervals else {}
                rows.append(
                    {"point": point, "trial": trial["number"], "chosen": point == chosen, "split": "tuning",
                     "measure": measure, "estimated": trial[measure], "measured": value, "sequences": 160,
                     "clusters": 24, **ends}
                )  # fmt: skip
        return rows


def front_of(rows):
    """The rows that no other is at least as good as in both objectives, and better in one; the plain way."""

    def beaten(row, by):
        own, other = ([each[name] for name in MEASURES[:2]] for each in (row, by))
        return all(b <= a for a, b in zip(own, other, strict=True)) and own != other

    return [row for row in rows if not any(beaten(row, other) for other in rows)]


def hypervolume(rows):
    """Area between the front and the reference."""
    area, highest = 0.0, REFERENCE[1]
    for row in sorted(rows, key=lambda row: (row["learned_share"], row["loss_difference"])):
        if row["loss_difference"] < highest and row["learned_share"] < REFERENCE[0]:
            area += (REFERENCE[0] - row["learned_share"]) * (highest - row["loss_difference"])
            highest = row["loss_difference"]
    return area
