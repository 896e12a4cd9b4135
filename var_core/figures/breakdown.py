"""Where the time of a forward pass goes, in the model as it is and under its policy."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes

from var_core.figures.sources import Drawing, Sources, number, percent
from var_core.figures.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    LIGHT_GREY,
    ORANGE,
    PAGE,
    PURPLE,
    SKY,
    VERMILLION,
    legend_below,
    letter_panels,
    new_figure,
)
from var_core.systems import names
from var_core.systems.profiles import AUDITED, BARE, PLAIN, POLICY, PROFILER, STOPWATCH, WHOLE

NEEDS = ("profile",)
"""What must have been recorded of the run."""

_GROUPS: dict[str, tuple[tuple[str, ...], str]] = {
    "rest": ((names.OTHER, names.LM_HEAD, names.DENSE), GREY),
    "attention": ((names.ATTENTION,), LIGHT_GREY),
    "experts": ((names.EXPERTS, names.SHARED_EXPERTS), BLUE),
    "dispatch": ((names.DISPATCH,), SKY),
    "gate": ((names.GATE, names.TOP_K), VERMILLION),
    "policy's decisions": ((names.POLICY_DECISION,), ORANGE),
    "its cache": ((names.CACHE,), PURPLE),
    "its audit": ((names.AUDIT,), GREEN),
}
"""Parts that are drawn as one, from the bottom to the top, and their colours."""

_ARMS = {PLAIN: "plain", POLICY: "policy", AUDITED: "audited"}
_TITLES = {names.PREFILL: "prefill", names.DECODE: "decoding"}
_MOST_BATCHES = 5
_STEP = 0.8
"""Room between batch sizes, in bars."""


@dataclass(frozen=True)
class Time:
    """Milliseconds of a forward pass or a part of it, and its share of the pass."""

    median: float
    low: float | None
    high: float | None
    share: float


class Profile:
    """The profile of a run: times by arm, phase, batch size, instrument and part."""

    def __init__(self, sources: Sources) -> None:
        rows = sources.query(
            "SELECT arm, phase, batch, context, instrument, part, seconds, low, high, share, rounds FROM profiles "
            "WHERE run = $run ORDER BY batch"
        ).to_pylist()
        self._times = {
            (row["arm"], row["phase"], row["batch"], row["instrument"], row["part"]): Time(
                1e3 * row["seconds"],
                None if row["low"] is None else 1e3 * row["low"],
                None if row["high"] is None else 1e3 * row["high"],
                row["share"],
            )
            for row in rows
        }
        self.arms = [arm for arm in _ARMS if any(row["arm"] == arm for row in rows)]
        self.batches = list(dict.fromkeys(row["batch"] for row in rows))
        self.context = rows[0]["context"]
        self.rounds = max(row["rounds"] for row in rows)

    def part(self, arm: str, phase: str, batch: int, group: str) -> float:
        """Milliseconds of what is drawn as one, by the stopwatch."""
        found = (self._times.get((arm, phase, batch, STOPWATCH, part)) for part in _GROUPS[group][0])
        return sum(each.median for each in found if each is not None)

    def share(self, arm: str, phase: str, batch: int, group: str) -> float:
        """Its share of the pass."""
        found = (self._times.get((arm, phase, batch, STOPWATCH, part)) for part in _GROUPS[group][0])
        return sum(each.share for each in found if each is not None)

    def whole(self, arm: str, phase: str, batch: int) -> Time:
        """The pass as nobody watches it."""
        return self._times[arm, phase, batch, BARE, WHOLE]

    def overhead(self, instrument: str) -> float | None:
        """Median share that an instrument adds to a pass; None if it was not used."""
        added = [
            time.median / self.whole(*key[:3]).median - 1
            for key, time in self._times.items()
            if key[3:] == (instrument, WHOLE)
        ]
        return statistics.median(added) if added else None


def draw(sources: Sources) -> Drawing:
    """Draw stacked bars for each batch size and arm, a panel a phase."""
    profile = Profile(sources)
    shown = _spread(profile.batches)
    figure = new_figure(PAGE, 3.1)
    panels = list(figure.subplots(1, len(names.PHASES)))
    for panel, phase in zip(panels, names.PHASES, strict=True):
        _draw_phase(panel, profile, phase, shown)
    letter_panels(panels, [_TITLES[phase] for phase in names.PHASES])
    legend_below(figure, panels, ncols=5)
    return Drawing(figure, _caption(profile, shown))


def _spread(batches: Sequence[int]) -> list[int]:
    """The batch sizes that there is room for, the smallest and the largest among them."""
    places = np.unique(np.linspace(0, len(batches) - 1, _MOST_BATCHES).round().astype(int))
    return [batches[place] for place in places]


def _draw_phase(panel: Axes, profile: Profile, phase: str, batches: Sequence[int]) -> None:
    width = len(profile.arms) + _STEP
    bars = [(arm, batch) for batch in batches for arm in profile.arms]
    places = [width * batches.index(batch) + profile.arms.index(arm) for arm, batch in bars]
    floor = np.zeros(len(bars))
    for group, (_, colour) in _GROUPS.items():
        own = np.array([profile.part(arm, phase, batch, group) for arm, batch in bars])
        if own.any():
            panel.bar(places, own, 0.8, floor, color=colour, linewidth=0, label=group)
        floor = floor + own
    times = [profile.whole(arm, phase, batch) for arm, batch in bars]
    median = np.array([time.median for time in times])
    ends = [[time.median if end is None else end for time, end in zip(times, side, strict=True)]
            for side in ([time.low for time in times], [time.high for time in times])]  # fmt: skip
    panel.errorbar(
        places, median, [median - ends[0], ends[1] - median], linestyle="none", marker="o", markersize=2.5,
        color=BLACK, elinewidth=0.8, label="whole, not watched",
    )  # fmt: skip
    centres = [width * place + (len(profile.arms) - 1) / 2 for place in range(len(batches))]
    if len(profile.arms) > 1:
        panel.set_xticks(places, [_ARMS[arm] for arm, _ in bars], rotation=90)
        panel.xaxis.remove_overlapping_locs = False  # a batch size may stand under a bar's name
        panel.set_xticks(centres, [str(batch) for batch in batches], minor=True)
        panel.tick_params(axis="x", which="minor", length=0, pad=34)
    else:
        panel.set_xticks(centres, [str(batch) for batch in batches])
    panel.set_xlabel("sequences in the batch")
    panel.set_ylim(0, 1.05 * max(*ends[1], *floor))
    panel.set_ylabel("milliseconds a forward pass")


def _caption(profile: Profile, shown: Sequence[int]) -> str:
    low, high = shown[0], shown[-1]
    gate = [profile.share(PLAIN, names.DECODE, batch, "gate") for batch in (low, high)]
    beside = f" for {low} sequence{'s' * (low > 1)}" + (f" and {percent(gate[1])} for {high}" if high != low else "")
    return (
        "Where does the time of a forward pass go? Medians of "
        f"{profile.rounds} interleaved rounds, (a) over {profile.context} tokens of each sequence at once, (b) over "
        "one token of each behind these, with a key-value cache. The times of parts are exclusive and by a stopwatch "
        f"at their edges{_watched(profile)}; dots are the same passes when nobody watches, with intervals of their "
        "medians. What is neither attention nor in an MoE block is the rest, the head among it. In decoding the gate "
        f"takes {percent(gate[0])} of the plain model's time{beside}: skipping it altogether, at no cost, could make "
        f"decoding at most {number(1 / (1 - max(gate)), 3)} times as fast.{_policy(profile, shown)}"
    )


def _watched(profile: Profile) -> str:
    said = []
    for instrument, words in ((STOPWATCH, "it"), (PROFILER, "torch's profiler")):
        found = profile.overhead(instrument)
        if found is not None:
            said.append(f"{words} adds {number(100 * found, 0)} %")
    return f" ({', '.join(said)} to a pass, in the median)" if said else ""


def _policy(profile: Profile, shown: Sequence[int]) -> str:
    """Say what the policy takes beside what it saves."""
    if POLICY not in profile.arms:
        return ""
    said = []
    for batch in dict.fromkeys((shown[0], shown[-1])):
        plain, policy = (profile.whole(arm, names.DECODE, batch) for arm in (PLAIN, POLICY))
        saved = profile.part(PLAIN, names.DECODE, batch, "gate") - profile.part(POLICY, names.DECODE, batch, "gate")
        groups = ("policy's decisions", "its cache")
        spent = sum(profile.part(POLICY, names.DECODE, batch, group) for group in groups)
        said.append(
            f"with {batch} sequence{'s' * (batch > 1)} it saves {number(saved)} ms of the gate and spends "
            f"{number(spent)} ms on its own decisions, and a pass takes {number(policy.median / plain.median)} times "
            "what it takes without"
        )
    return f" Under the policy, {'; '.join(said)}."
