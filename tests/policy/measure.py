"""Figures of the decision on bounds and audit: ``PYTHONPATH=.:tests python tests/policy/measure.py``.

Coverage and width of bounds, false alarms and detection times of the monitor, on simulated text with known truth.
"""

from collections.abc import Callable, Iterable

import numpy as np
from scipy import stats

from clustered import ClusteredText
from var_core.evaluation.paired import Margin, excess_over_margin, margin_test
from var_core.hypotheses.resampling import bootstrap_weights, generator
from var_core.policy.audit import AuditMonitor, sequence_means
from var_core.policy.bounds import Clusters, lower_bounds
from var_core.policy.loss_bounds import student_upper_bound

DELTA, EXPERIMENTS = 0.05, 1000


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    head = list(head)
    print("\n| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(row) + " |", flush=True)


def in_order(values, delta):
    """Lower bound by bets that follow the data in the order given (the predictable plug-in of the paper), [S, R]."""
    sequences = len(values)
    number = np.arange(1, sequences + 1)[:, None]
    mean = (0.5 + values.cumsum(axis=0)) / (number + 1)
    variance = (0.25 + ((values - mean) ** 2).cumsum(axis=0)) / (number + 1)
    before = np.vstack([np.full((1, values.shape[1]), 0.25), variance[:-1]])
    bet = np.sqrt(2 * np.log(1 / delta) / (sequences * before))
    low, high = np.zeros(values.shape[1]), np.ones(values.shape[1])
    for _ in range(30):
        middle = (low + high) / 2
        capital = np.log1p(np.minimum(bet, 0.5 / middle) * (values - middle)).cumsum(axis=0)
        rejected = capital.max(axis=0) >= np.log(1 / delta)
        low, high = np.where(rejected, middle, low), np.where(rejected, high, middle)
    return low


def single_decisions(clusters, delta):
    hits, trials = clusters.sums.sum(axis=0), clusters.counts.sum(axis=0)
    return stats.beta.ppf(delta, hits, trials - hits + 1)


def student(clusters, delta):
    turned = clusters.complement()
    columns = zip(turned.sums.T, turned.counts.T, strict=True)
    return np.array([1 - (student_upper_bound(*column, delta) or 1.0) for column in columns])


def coverage() -> None:
    text = ClusteredText()
    bounds: dict[str, Callable] = {
        "betting": lambda clusters: lower_bounds(clusters, DELTA),
        "empirical Bernstein": lambda clusters: lower_bounds(clusters, DELTA, "empirical Bernstein"),
        "Hoeffding": lambda clusters: lower_bounds(clusters, DELTA, "Hoeffding"),
        "Student's t (approximate)": lambda clusters: student(clusters, DELTA),
        "binomial over decisions (wrong)": lambda clusters: single_decisions(clusters, DELTA),
    }
    sizes = (30, 150, 1000)
    draws = [Clusters.of(*text.draw(size, EXPERIMENTS, np.random.default_rng(size)), text.longest) for size in sizes]
    print(
        f"\nLower bounds at 1 - delta = {1 - DELTA}: share of {EXPERIMENTS} experiments where they hold (mean distance)"
    )
    for what, truth, sets in (
        ("mean over decisions", text.ratio, draws),
        ("mean of sequence means", text.mean_of_means, [each.means() for each in draws]),
    ):
        rows = []
        other = Clusters.of(*text.draw(200, 1, np.random.default_rng(99)), text.longest)
        methods = dict(bounds)
        methods["betting, planned on 200 other sequences"] = lambda clusters, other=other: lower_bounds(
            clusters, DELTA, calibration=other if clusters.longest > 1 else other.means()
        )
        if what == "mean of sequence means":
            del methods["binomial over decisions (wrong)"]
            methods["betting in order"] = lambda clusters: in_order(clusters.sums, DELTA)
        for name, bound in methods.items():
            values = [bound(clusters) for clusters in sets]
            rows.append(
                [name]
                + [
                    f"{(value <= truth).mean():.3f} ({(clusters.ratios - value).mean():.3f})"
                    for value, clusters in zip(values, sets, strict=True)
                ]
            )
        table([what, *(f"{size} sequences" for size in sizes)], rows)
    values = draws[1].means().sums[:, 0]
    random = np.random.default_rng(0)
    orders = in_order(np.stack([random.permutation(values) for _ in range(1000)], axis=1), DELTA)
    print(f"\nBetting in order, one sample of 150 in 1,000 orders: {orders.min():.3f} to {orders.max():.3f}")


def layers() -> None:
    text, rows = ClusteredText(), []
    for number in (1, 16, 48):
        sums, counts = text.draw_layers(150, number, 300, np.random.default_rng(number))
        wide = Clusters.of(sums.reshape(150, -1), np.repeat(counts, number, axis=1), text.longest)
        row = [str(number)]
        for delta in (0.1 / number, 0.1):
            bound = lower_bounds(wide, delta)
            held = (bound <= text.ratio).reshape(300, number).all(axis=1).mean()
            row.append(f"{held:.3f} ({(wide.ratios - bound).mean():.3f})")
        rows.append(row)
    print("\nBetting at all layers at once, 150 sequences, 1 - delta = 0.9, 300 experiments")
    table(["layers", "delta / L each", "delta each (wrong)"], rows)


def alarms(outcomes, certified, family=1):
    monitor = AuditMonitor(np.full(outcomes.shape[1], certified), 0.05, family)
    monitor.update(outcomes, np.ones(outcomes.shape, dtype=bool))
    return monitor


def detection() -> None:
    random, runs = np.random.default_rng(0), 300
    rows = []
    for certified, before in ((0.8, 0.85), (0.95, 0.97)):
        for good in (0, 10_000):
            row = [f"{certified}", f"{before}", f"{good:,}"]
            for family in (1, 16):
                for drop in (0.1, 0.2, 0.3):
                    outcomes = np.concatenate(
                        [random.random((good, runs)) < before, random.random((3000, runs)) < certified - drop]
                    )
                    monitor = alarms(outcomes, certified, family)
                    delays = np.full(runs, np.inf)
                    delays[[event.layer for event in monitor.events]] = [event.observed for event in monitor.events]
                    row.append(f"{np.median(delays[delays > good]) - good:.0f}")
            rows.append(row)
    print(
        "\nMedian number of audited decisions from a shift to the alarm, alpha = 0.05, 300 runs; drop below certified"
    )
    drops = [f"{drop}, L = {family}" for family in (1, 16) for drop in (0.1, 0.2, 0.3)]
    table(["certified", "before", "decisions before", *drops], rows)


def false_alarms() -> None:
    random, rows = np.random.default_rng(1), []
    for name, outcomes in (
        ("right or wrong, mean 0.8", random.random((10_000, EXPERIMENTS)) < 0.8),
        ("recall of two, mean 0.8", random.choice([0.0, 0.5, 1.0], p=[0.1, 0.2, 0.7], size=(10_000, EXPERIMENTS))),
    ):
        looks = np.arange(100, 10_001, 100)
        z = (outcomes.cumsum(axis=0)[looks - 1] / looks[:, None] - 0.8) * np.sqrt(looks)[:, None] / outcomes.std()
        often = (z < stats.norm.ppf(0.05)).any(axis=0).mean()
        rows.append([name, f"{alarms(outcomes, 0.8).alarmed.mean():.3f}", f"{often:.3f}"])
    print("\nFalse alarms in 1,000 streams of 10,000 decisions, alpha = 0.05")
    table(["stream", "monitor", "z-test after every 100"], rows)


def units() -> None:
    text = ClusteredText(lengths=(40,), shares=(1.0,), means=(0.8,), concentration=4.0)
    rows = []
    for mean in (0.8, 0.7, 0.6, 0.5):
        drawn = ClusteredText((40,), (1.0,), (mean,), text.concentration)
        random = np.random.default_rng(int(100 * mean))
        sums, _ = drawn.draw(250, 300, random)
        outcomes = (random.random((250, 40, 300)).argsort(axis=1) < sums[:, None]).reshape(-1, 300)
        means, present = sequence_means(outcomes, np.ones(outcomes.shape, dtype=bool), np.repeat(np.arange(250), 40))
        monitor = AuditMonitor(np.full(300, 0.8), 0.05, 1)
        monitor.update(means, present)
        row = [f"{mean}"]
        for each, size in ((alarms(outcomes, 0.8), 40), (monitor, 1)):
            found = [event.observed / size for event in each.events]
            row.append(f"{each.alarmed.mean():.3f} ({np.median(found) if found else np.nan:.0f})")
        rows.append(row)
    print("\nSequences that differ (correlation 0.2), 40 audited decisions each, certified 0.8, at most 250 sequences:")
    print("share of 300 streams with an alarm (median sequences until then)")
    table(["true mean", "a decision an outcome", "a sequence's mean an outcome"], rows)


def margins() -> None:
    rows = []
    for name in ("normal", "skewed"):
        for sequences in (20, 50, 200):
            rejected = []
            for run in range(EXPERIMENTS):
                random = np.random.default_rng([9, run])
                tokens = random.choice([60, 250], size=sequences)
                plain = tokens * random.gamma(40, 3.0 / 40, size=sequences)
                skewed = random.gamma(0.5, np.sqrt(2), sequences) - np.sqrt(0.5)
                effect = random.normal(size=sequences) if name == "normal" else skewed
                excess = excess_over_margin(plain + tokens * (0.15 + 0.1 * effect), plain, tokens, Margin())
                centred, weights = excess - excess.mean(), bootstrap_weights(sequences, 199, generator(run, "measure"))
                test = margin_test(excess, weights @ centred, weights @ centred**2)
                t = stats.ttest_1samp(excess, 0, alternative="less").pvalue
                rejected.append([test.within <= 0.05, test.beyond <= 0.05, t <= 0.05, 1 - t <= 0.05])
            rows.append([name, f"{sequences}", *(f"{each:.3f}" for each in np.mean(rejected, axis=0))])
    print("\nExactly at the margin: share of 1,000 experiments called so at alpha = 0.05")
    table(["costs", "sequences", "within", "beyond", "within, Student's t alone", "beyond, Student's t alone"], rows)


if __name__ == "__main__":
    for part in (coverage, layers, false_alarms, detection, units, margins):
        part()
