"""What the figures of offloaded experts share: how rules of caches and predictions look, and which size is told."""

from dataclasses import dataclass

from var_core.figures.sources import Sources, number
from var_core.figures.style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILLION, LineStyle
from var_core.systems.names import DECODE

BELADY, LRU = "belady", "lru"


@dataclass(frozen=True)
class Look:
    """How a rule or a prediction is drawn, and what it is called."""

    label: str
    colour: str
    style: LineStyle = "-"
    marker: str = ""


DEMANDED = {
    LRU: Look("LRU", BLUE, marker="."),
    "lfu": Look("LFU", VERMILLION, "--"),
    "fifo": Look("FIFO", GREY, "-."),
    "static": Look("static hottest", PURPLE, ":"),
    BELADY: Look("Belady's optimum", BLACK),
}
"""Rules that load what is needed when it is needed."""

PREDICTIONS = {
    "token_table": Look("token table", GREEN, marker="o"),
    "context_cache": Look("context cache", ORANGE, marker="s"),
    "next_layer": Look("next layer", PURPLE, marker="^"),
    "previous_token": Look("previous token", SKY, marker="v"),
    "random": Look("random experts", GREY, ":", "x"),
    "oracle": Look("oracle", BLACK, (0, (3, 1))),
}
"""What experts are fetched by before they are needed; beside the prediction the cache is LRU."""

USABLE = ("token_table", "context_cache", "next_layer", "previous_token")
"""Predictions that could be used; the others are controls."""

_NO_RUN_SHARE = 0.5


def smallest_batch(sources: Sources) -> int | None:
    """The fewest sequences that were replayed as decoded together; None where none were."""
    rows = sources.query(
        "SELECT min(batch) AS batch FROM cache_simulations WHERE run = $run AND phase = $phase", phase=DECODE
    )
    found: int | None = rows["batch"][0].as_py()
    return found


def told_share(sources: Sources, batch: int) -> float:
    """The replayed size of cache that numbers are told of, as a share of all experts.

    It is the one nearest to what the model was really run with, or to half of the experts where it was not.
    """
    capacities = sources.query("SELECT DISTINCT capacity FROM offloaded WHERE run = $run AND capacity IS NOT NULL")
    wanted = _NO_RUN_SHARE
    if len(capacities):
        wanted = min(capacities["capacity"].to_pylist()) / experts_of(sources)
    rows = sources.query(
        "SELECT DISTINCT capacity_share FROM cache_simulations "
        "WHERE run = $run AND phase = $phase AND batch = $batch AND sharing = 'shared'",
        phase=DECODE,
        batch=batch,
    )
    return min(rows["capacity_share"].to_pylist(), key=lambda share: (abs(share - wanted), share))


def experts_of(sources: Sources) -> int:
    """Experts of all layers."""
    return sum(layer.experts for layer in sources.layers)


def decoding(batch: int) -> str:
    """Say what is decoded: ``one sequence`` or ``8 sequences together``."""
    return "one sequence" if batch == 1 else f"{batch} sequences together"


def interval(low: float | None, high: float | None) -> str:
    """Write the ends of a speed-up's interval, with a space before; nothing where there is none."""
    return "" if low is None or high is None else f" [{number(low)}, {number(high)}]"
