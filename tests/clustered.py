"""Simulated text with known truth whose decisions resemble each other within a sequence."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ClusteredText:
    """Beta-binomial agreement of sequences of unequal lengths; the long ones agree less."""

    lengths: tuple[int, ...] = (20, 100, 400)
    shares: tuple[float, ...] = (0.3, 0.4, 0.3)
    means: tuple[float, ...] = (0.9, 0.85, 0.8)
    concentration: float = 4.0
    """of the beta distribution of a sequence's agreement; decisions of a sequence correlate by 1 / (1 + this)"""

    @property
    def longest(self) -> int:
        return max(self.lengths)

    @property
    def ratio(self) -> float:
        """Mean agreement over decisions."""
        weights = np.multiply(self.lengths, self.shares)
        return float(weights @ self.means / weights.sum())

    @property
    def mean_of_means(self) -> float:
        """Mean agreement over sequences."""
        return float(np.dot(self.shares, self.means))

    def draw(self, sequences: int, experiments: int, random: np.random.Generator):
        """Sums of agreement and numbers of decisions, [S, R]: an experiment (or independent layer) a column."""
        kind = random.choice(len(self.lengths), size=(sequences, experiments), p=self.shares)
        counts, mean = np.array(self.lengths)[kind], np.array(self.means)[kind]
        agreement = random.beta(mean * self.concentration, (1 - mean) * self.concentration)
        return random.binomial(counts, agreement).astype(float), counts.astype(float)

    def draw_layers(self, sequences: int, layers: int, experiments: int, random: np.random.Generator):
        """The same for layers that share lengths and half of each sequence's luck, [S, R, L] and [S, R]."""
        kind = random.choice(len(self.lengths), size=(sequences, experiments), p=self.shares)
        counts, mean = np.array(self.lengths)[kind], np.array(self.means)[kind]
        parameters = mean * self.concentration, (1 - mean) * self.concentration
        common = random.beta(*parameters)[:, :, None]
        own = random.beta(parameters[0][:, :, None], parameters[1][:, :, None], size=(*kind.shape, layers))
        agreement = np.where(random.random(own.shape) < 0.5, common, own)
        return random.binomial(counts[:, :, None], agreement).astype(float), counts.astype(float)
