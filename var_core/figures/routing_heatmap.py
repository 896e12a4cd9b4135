"""Where the most frequent tokens go: share of each type's occurrences that choose each expert."""

from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from var_core.figures.ordering import MOST_NAMED, similar_rows
from var_core.figures.sources import Drawing, Sources, percent, shown_layers, spread_layers
from var_core.figures.style import PAGE, SEQUENTIAL, letter_panels, new_figure
from var_core.figures.tokens import visible
from var_core.hypotheses.data import Layer
from var_core.hypotheses.frequent import most_frequent

Floats = NDArray[np.float64]

MOST_TYPES = 40
"""Rows of the map."""
_MOST_LAYERS = 4
_WIDE_EXPERTS, _WIDE_LAYERS = 64, 2


@dataclass(frozen=True)
class RoutingMap:
    """Share of each type's decisions that chose each expert.

    Attributes
    ----------
    tokens : tuple of str
        Texts of the types, in the order of the rows.
    layers : tuple of Layer
        Layers shown.
    shares : tuple of float array, shape (types, E)
        One for each layer; a row sums to k.
    experts : tuple of int array, shape (E,)
        Numbers of the experts in the order of the columns.
    coverage : float
        Share of all decisions that are of these types.
    """

    tokens: tuple[str, ...]
    layers: tuple[Layer, ...]
    shares: tuple[Floats, ...]
    experts: tuple[NDArray[np.int64], ...]
    coverage: float


NEEDS = ("token_ids",)
"""What must have been recorded of the run."""


def draw(sources: Sources) -> Drawing:
    """Draw which experts the most frequent token types choose, alike types beside each other."""
    table = measure_map(sources)
    rows = len(table.tokens)
    figure = new_figure(PAGE, 0.95 + 0.118 * rows)
    panels = list(figure.subplots(1, len(table.layers), sharey=True, squeeze=False)[0])
    for panel, layer, shares, experts in zip(panels, table.layers, table.shares, table.experts, strict=True):
        image = panel.imshow(shares, cmap=SEQUENTIAL, vmin=0, vmax=1, aspect="auto", rasterized=True)
        _label_experts(panel, layer, experts)
        panel.spines[:].set_visible(False)
    panels[0].set_yticks(range(rows), [visible(token) for token in table.tokens])
    for panel in panels:
        panel.tick_params(axis="y", length=0)
    panels[0].set_ylabel("token type")
    bar = figure.colorbar(image, ax=panels, pad=0.01, aspect=40)
    bar.set_label("share of occurrences")
    letter_panels(panels, [f"layer {layer.layer}" for layer in table.layers])
    return Drawing(figure, _caption(table, sources))


def measure_map(sources: Sources) -> RoutingMap:
    """Shares of the most frequent types, alike types beside each other over all layers that are shown."""
    data = sources.data
    most = max(layer.experts for layer in sources.layers)
    shown = spread_layers(sources.layers, _WIDE_LAYERS if most > _WIDE_EXPERTS else _MOST_LAYERS)
    shares, n = [], data.expert_counts(shown[0]).n
    top = most_frequent(n, MOST_TYPES)
    for layer in shown:
        counts = data.expert_counts(layer)
        shares.append(counts.chosen[top] / np.maximum(counts.n[top], 1)[:, None])
    rows = similar_rows(np.hstack(shares))
    shares = [share[rows] for share in shares]
    experts = [_expert_order(share) for share in shares]
    names = sources.query("SELECT token_id, token FROM tokens WHERE run = $run").to_pydict()
    texts = dict(zip(names["token_id"], names["token"], strict=True))
    return RoutingMap(
        tokens=tuple(texts[token] for token in data.token_ids[top[rows]].tolist()),
        layers=tuple(shown),
        shares=tuple(share[:, order] for share, order in zip(shares, experts, strict=True)),
        experts=tuple(experts),
        coverage=float(n[top].sum() / n.sum()),
    )


def _expert_order(shares: Floats) -> NDArray[np.int64]:
    """By number for a few experts; else by the mean row of the types that choose them, which makes a diagonal."""
    experts = shares.shape[1]
    if experts <= MOST_NAMED:
        return np.arange(experts)
    weight = shares**2
    centre = (weight * np.arange(len(shares))[:, None]).sum(axis=0) / np.maximum(weight.sum(axis=0), 1e-12)
    return np.argsort(np.where(weight.sum(axis=0) > 0, centre, np.inf), kind="stable")


def _label_experts(panel: Axes, layer: Layer, experts: NDArray[np.int64]) -> None:
    if layer.experts <= MOST_NAMED:
        step = 1 if layer.experts <= 8 else 2
        panel.set_xticks(range(0, layer.experts, step), [str(expert) for expert in experts[::step]])
        panel.set_xlabel("expert")
    else:
        panel.set_xticks([])
        panel.set_xlabel(f"{layer.experts} experts, ordered")


def _caption(table: RoutingMap, sources: Sources) -> str:
    faithful = "; ".join(
        f"layer {layer.layer}, {percent(float((share.max(axis=1) > 0.9).mean()))}"
        for share, layer in zip(table.shares, table.layers, strict=True)
    )
    few = max(layer.experts for layer in table.layers) <= MOST_NAMED
    ordered = "" if few else " Experts are ordered by the types that choose them, in each layer anew."
    chance = percent(table.layers[0].top_k / table.layers[0].experts)
    return (
        f"Where do the most frequent tokens go? Rows are the {len(table.tokens)} most frequent token types, "
        f"{percent(table.coverage)} of all occurrences in the capture split (␣ is a space, ↵ a line break, ×8 eight "
        "of the sign before it), those that are routed alike beside each other. Colour is the share of a type's "
        "occurrences that choose the expert. Routing that ignores the token would give all rows the same colours, "
        f"{chance} everywhere where the load is even.{ordered}{shown_layers(table.layers, sources.layers)} Share of "
        f"these types with an expert that they choose on more than nine of ten occurrences: {faithful}."
    )
