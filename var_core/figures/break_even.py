"""When fetching predicted experts pays: a map for each device, and what there is to gain where nothing is fetched."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import QuadMesh
from matplotlib.colors import Normalize
from matplotlib.ticker import FixedLocator, NullLocator, PercentFormatter
from numpy.typing import NDArray

from var_core.figures.offloading import LRU, PREDICTIONS, USABLE, decoding, interval, smallest_batch, told_share
from var_core.figures.resident import draw_resident, resident_caption, resident_of
from var_core.figures.sources import Drawing, Sources, number, percent, short_percent
from var_core.figures.style import (
    BLACK,
    PAGE,
    PAYING,
    empty_panel,
    legend_below,
    letter_panels,
    new_figure,
    ratio_bar,
)
from var_core.systems.break_even import Layer
from var_core.systems.machine import MACHINE
from var_core.systems.names import DECODE

Floats = NDArray[np.float64]
Row = Mapping[str, Any]

NEEDS = ("systems",)
"""What must have been recorded of the run."""

_COLUMNS, _MOST_DEVICES = 3, 8
_LETTERS = "abcdefghi"
_BANDWIDTHS = np.logspace(8, 12, 161)
"""Bytes a second, 0.1 to 1000 GB: from cards of phones to links between accelerators."""
_RECALLS = np.linspace(0.0, 1.0, 81)
_ROUNDING = 1e-9
_LIMIT = 1.0
"""The colours reach so far, as a logarithm to base 2: from half to double speed."""
_UNKNOWN = "not known: this routing was recorded\nwithout its model, or nothing that\ncould be used predicts it"


@dataclass(frozen=True)
class Place:
    """A run's routing on a device: the prediction of the highest recall, and the fastest; rows of ``break_even``."""

    told: Row
    fastest: Row


def draw(sources: Sources) -> Drawing:
    """Draw the map of each device with the run's point on it, and the case that all experts are in memory."""
    places, resident, really = places_of(sources), resident_of(sources), really_run(sources)
    shown = list(places)[:_MOST_DEVICES]
    maps = max(len(shown), 1)
    columns = min(_COLUMNS, maps + 1)
    rows = -(-(maps + 1) // columns)
    figure = new_figure(PAGE, 0.7 + 1.95 * rows)
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    panels, last = grid[:maps], grid[maps]
    for panel in grid[maps + 1 :]:
        panel.remove()
    if shown:
        _draw_maps(panels, [places[device].told for device in shown], really)
    else:
        empty_panel(panels[0], _UNKNOWN)
    draw_resident(last, resident)
    letter_panels([*panels, last], [*(shown or ["experts offloaded"]), "all experts in memory"])
    legend_below(figure, [*panels, last], ncols=3)
    text = _map_caption(places, shown, really) if shown else "(a) When experts are offloaded, this is not known."
    caption = (
        f"When does it pay to fetch predicted experts ahead? {text} ({_LETTERS[maps]}) {resident_caption(resident)}"
    )
    return Drawing(figure, caption)


def places_of(sources: Sources) -> dict[str, Place]:
    """What predictions that could be used came to on the run's routing, by device.

    They are of the fewest sequences together, and of the size of cache that :func:`told_share` gives. The machine that
    measured itself comes first, then devices by the bandwidth of their links.
    """
    batch = smallest_batch(sources)
    if batch is None:
        return {}
    rows = sources.query(
        """
        SELECT * FROM break_even
        WHERE run = $run AND "case" = 'offloaded' AND source = 'replayed' AND batch = $batch AND capacity_share = $share
        ORDER BY device <> $machine, link_bandwidth DESC, device, policy
        """,
        batch=batch,
        share=told_share(sources, batch),
        machine=MACHINE,
    ).to_pylist()
    found: dict[str, list[Row]] = {}
    for row in rows:
        if row["policy"] in USABLE:
            found.setdefault(row["device"], []).append(row)
    return {
        device: Place(max(own, key=lambda row: row["recall"]), max(own, key=lambda row: row["speed_up"]))
        for device, own in found.items()
    }


def really_run(sources: Sources) -> dict[str, float]:
    """Tokens a second of decoding with offloaded experts on the machine itself, by what is fetched ahead."""
    rows = sources.query(
        "SELECT arm, tokens_per_second FROM offloaded WHERE run = $run AND phase = $phase AND capacity IS NOT NULL",
        phase=DECODE,
    ).to_pylist()
    return {row["arm"]: row["tokens_per_second"] for row in rows}


def speed_ups(row: Row, bandwidth: Floats, recall: Floats, free: bool = False) -> Floats:
    """The closed form around a point of the table, for links of other bandwidths and predictions of other recall.

    Parameters
    ----------
    row : mapping
        Of ``break_even``: the seconds of a layer, and what a link has to carry.
    bandwidth : float array, shape (B,)
        Bytes a second.
    recall : float array, shape (R,)
    free : bool, optional
        As if predicting took no time.

    Returns
    -------
    float array, shape (R, B)
        Time with LRU alone over that with prefetching beside it.
    """
    load = row["link_latency"] + row["expert_bytes"] / bandwidth
    layer = Layer(
        before=row["before_seconds"],
        experts=row["expert_seconds"],
        load=load,
        needed=row["distinct"],
        hit_rate=row["hit_rate"],
        wrong_missing=row["wrong_missing"],
        deciding=0.0 if free else row["deciding_seconds"],
        gate=row["gate_seconds"],
    )
    return layer.speed_up(recall[:, None])


def _draw_maps(panels: Sequence[Axes], told: Sequence[Row], really: Mapping[str, float]) -> None:
    """Draw all maps in the same colours, with one bar."""
    for panel, row in zip(panels, told, strict=True):
        mesh = _draw_map(panel, row, really if row["device"] == MACHINE else {})
    panels[0].plot(
        [], [], linestyle="none", marker="o", markersize=6.5, markeredgecolor=BLACK, markerfacecolor="white",
        label=f"{PREDICTIONS[told[0]['policy']].label}, replayed (colour)",
    )  # fmt: skip
    for name, style in (("both take the same time", "-"), ("the same, if predicting took no time", "--")):
        panels[0].plot([], [], color=BLACK, linestyle=style, linewidth=1.0, label=name)
    bar = panels[0].figure.colorbar(mesh, ax=list(panels), pad=0.01, aspect=30, extend="both")
    ratio_bar(bar, "speed-up over LRU alone")


def _draw_map(panel: Axes, row: Row, really: Mapping[str, float]) -> QuadMesh:
    gigabytes = _BANDWIDTHS / 1e9
    own, free = (np.log2(speed_ups(row, _BANDWIDTHS, _RECALLS, free=free)) for free in (False, True))
    norm = Normalize(-_LIMIT, _LIMIT)
    mesh = panel.pcolormesh(gigabytes, _RECALLS, own, cmap=PAYING, norm=norm, shading="nearest", rasterized=True)
    for value, style in ((own, "-"), (free, "--")):
        # Where a recall of 0 costs nothing there is no line, not one along the axis.
        if value.min() < -_ROUNDING < value.max():
            panel.contour(
                gigabytes, _RECALLS, value, levels=[-_ROUNDING], colors=BLACK, linestyles=style, linewidths=1.0
            )
    x, y = row["link_bandwidth"] / 1e9, row["recall"]
    panel.plot(
        [x], [y], linestyle="none", marker="o", markersize=6.5, markeredgecolor=BLACK, zorder=4,
        markerfacecolor=ScalarMappable(norm, PAYING).to_rgba(np.log2(row["speed_up"])),
    )  # fmt: skip
    left = x > np.sqrt(gigabytes[0] * gigabytes[-1])
    panel.annotate(
        _beside(row, really), (x, y), (-7 if left else 7, 0), textcoords="offset points",
        ha="right" if left else "left", va="top" if y > 0.5 else "bottom", zorder=5,
        bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.85},
    )  # fmt: skip
    panel.set(xscale="log", xlim=(gigabytes[0], gigabytes[-1]), ylim=(0, 1))
    panel.xaxis.set_major_locator(FixedLocator([0.1, 1, 10, 100, 1000]))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.xaxis.set_major_formatter("{x:g}")
    panel.set_xlabel("link (GB a second)")
    panel.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    panel.set_ylabel("recall")
    return mesh


def _beside(row: Row, really: Mapping[str, float]) -> str:
    lines = [f"replay: {number(row['speed_up'])}×", f"free: {number(row['speed_up_free'])}×"]
    if {LRU, row["policy"]} <= set(really):
        lines.append(f"run: {number(really[row['policy']] / really[LRU])}×")
    return "\n".join(lines)


def _map_caption(places: Mapping[str, Place], shown: Sequence[str], really: Mapping[str, float]) -> str:
    first = places[shown[0]].told
    name = PREDICTIONS[first["policy"]].label
    panels = f"({_LETTERS[0]}–{_LETTERS[len(shown) - 1]})" if len(shown) > 1 else "(a)"
    left_out = f" Of {len(places)} devices, {len(shown)} are shown." if len(shown) < len(places) else ""
    devices = ". ".join(_device(device, places[device], really) for device in shown)
    return (
        f"{panels} Decoding {decoding(first['batch'])} with {percent(first['capacity_share'])} of the experts in "
        f"memory, where LRU alone finds {short_percent(first['hit_rate'])} of those that are needed. Colour is the "
        "speed with prefetching over that with LRU alone, by a closed form, on the device of the title with links of "
        f"any bandwidth and predictions of any recall that take as long as those by {name}; blue pays, and where there "
        f"is no line one side is everywhere. {_deciding(first)} The dot has the device's own link and the recall of "
        f"{name} on this run's routing, {short_percent(first['recall'])}, the highest of all predictions that could be "
        "used. Its own colour is what a replay of that routing, load by load, came to, which stands beside it, and the "
        "same if predicting took no time. Where its colour is not the map's, believe the replay: the closed form takes "
        "all layers to be alike, and wrong predictions to push out nothing that is needed."
        f" {devices}.{left_out}"
    )


def _deciding(row: Row) -> str:
    if row["deciding_seconds"] == 0:
        return "Predicting is taken to take no time, for nobody measured it."
    shares = f"{number(1e3 * row['deciding_seconds'], 3)} ms a layer, as measured on {MACHINE}"
    return f"Predicting takes {shares}; the dashed line is where both would take the same time if it took none."


def _device(device: str, place: Place, really: Mapping[str, float]) -> str:
    row, fastest = place.told, place.fastest
    least = row["break_even_recall"]
    needed = "no recall would do" if least is None or least > 1 else f"{percent(max(least, 0.0))} would do"
    text = (
        f"On {device}: {_speed(row)}, {number(row['speed_up_free'])} if free; by the closed form "
        f"{number(row['speed_up_modelled'])}, and {needed}"
    )
    if device == MACHINE and {LRU, row["policy"]} <= set(really):
        text += f"; the model really run so is {number(really[row['policy']] / really[LRU])} times as fast"
    if fastest["policy"] != row["policy"]:
        text += f"; fastest is {PREDICTIONS[fastest['policy']].label}, {_speed(fastest)}"
    return text


def _speed(row: Row) -> str:
    return f"{number(row['speed_up'])}{interval(row['speed_up_low'], row['speed_up_high'])} times as fast"
