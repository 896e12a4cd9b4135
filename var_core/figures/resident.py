"""What a policy can gain where all experts are in memory: a panel, and what it says in words."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator

from var_core.figures.offloading import decoding, interval
from var_core.figures.sources import Sources, number
from var_core.figures.style import BLACK, BLUE, LIGHT_GREY, VERMILLION, empty_panel, level

Row = Mapping[str, Any]

ASSUMED = "assumed"
"""Source of the rows of known architectures."""
_LEAST, _MOST = 0.5, 1.5
"""The scale reaches so far at least, so that next to nothing looks like it."""


def resident_of(sources: Sources) -> list[Row]:
    """What is known of models whose experts are all in memory, by batch."""
    rows: list[Row] = sources.query(
        """
        SELECT architecture, source, device, batch, ceiling, speed_up, speed_up_low, speed_up_high FROM break_even
        WHERE run = $run AND "case" = 'resident' ORDER BY architecture, device, batch
        """
    ).to_pylist()
    return rows


def ceilings(rows: Sequence[Row], own: bool) -> dict[int, tuple[float, float]]:
    """Lowest and highest ceiling over models and devices by batch, of this run's model or of known ones."""
    found: dict[int, list[float]] = {}
    for row in rows:
        if (row["source"] != ASSUMED) == own and row["ceiling"] is not None:
            found.setdefault(row["batch"], []).append(row["ceiling"])
    return {batch: (min(found[batch]), max(found[batch])) for batch in sorted(found)}


def draw_resident(panel: Axes, rows: Sequence[Row]) -> None:
    """Draw what a policy that costs nothing could gain at most, and what was measured of this one, by batch."""
    known = ceilings(rows, own=False)
    own = [row for row in rows if row["source"] != ASSUMED and row["ceiling"] is not None]
    measured = measured_of(rows)
    if not known and not own:
        empty_panel(panel, "no model's shape is known")
        return
    if known:
        ends = np.array([*known.values()])
        panel.fill_between(
            [*known], ends[:, 0], ends[:, 1], color=LIGHT_GREY, linewidth=0, label="ceiling, known models"
        )
    for place, device in enumerate(dict.fromkeys(row["device"] for row in own)):
        line = [(row["batch"], row["ceiling"]) for row in own if row["device"] == device]
        label = "ceiling, this model, each device" if place == 0 else None
        panel.plot(*np.array(line).T, color=BLUE, linewidth=0.8, marker=".", markersize=3.0, label=label)
    level(panel, 1.0, BLACK, "-")
    if measured:
        _draw_measured(panel, measured)
    shown = sorted({row["batch"] for row in [*own, *measured]} | set(known))
    panel.set_xscale("log", base=2)
    panel.set_xlim(shown[0] / 1.2, shown[-1] * 1.2)
    panel.xaxis.set_major_locator(FixedLocator([4**power for power in range(6)]))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.xaxis.set_major_formatter("{x:.0f}")
    low, high = panel.get_ylim()
    panel.set_ylim(min(low, _LEAST), max(high, _MOST))
    panel.set_xlabel("sequences together")
    panel.set_ylabel("speed with a policy")


def _draw_measured(panel: Axes, rows: Sequence[Row]) -> None:
    batch, value = (np.array([row[name] for row in rows], np.float64) for name in ("batch", "speed_up"))
    low, high = (
        np.array([row["speed_up"] if row[end] is None else row[end] for row in rows])
        for end in ("speed_up_low", "speed_up_high")
    )
    panel.errorbar(
        batch, value, [value - low, high - value], linestyle="none", marker="o", markersize=4.0, color=VERMILLION,
        markeredgecolor=BLACK, markeredgewidth=0.5, elinewidth=0.9, label="this policy, measured",
    )  # fmt: skip


def measured_of(rows: Sequence[Row]) -> list[Row]:
    """Those that were measured, by batch."""
    return [row for row in rows if row["speed_up"] is not None]


def resident_caption(rows: Sequence[Row]) -> str:
    """Say what there is to gain where nothing has to be fetched."""
    said = ["With all experts in memory nothing is fetched, and what a policy can save is the router's time."]
    for own, whose in ((True, "this model"), (False, "known models")):
        found = ceilings(rows, own=own)
        ends = [
            f"{number(found[batch][1], 3)} decoding {decoding(batch)}"
            for batch in (dict.fromkeys((min(found), max(found))) if found else ())
        ]
        if ends:
            said.append(
                f"If it decided everything at no cost, {whose} would be at most so many times as fast on any of these "
                f"devices: {', '.join(ends)}."
            )
    measured = measured_of(rows)
    if not measured:
        said.append("No policy was run and timed, so none was measured.")
    for place in dict.fromkeys((0, len(measured) - 1)) if measured else ():
        row = measured[place]
        said.append(
            f"Measured on {row['device']}, decoding {decoding(row['batch'])} is {number(row['speed_up'])}"
            f"{interval(row['speed_up_low'], row['speed_up_high'])} times as fast with this policy as without."
        )
    return " ".join(said)
