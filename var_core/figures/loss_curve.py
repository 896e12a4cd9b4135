"""What a model that the workflow trained has learned, and whether it uses all its experts."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter
from numpy.typing import NDArray

from var_core.errors import VarError
from var_core.figures.sources import Drawing, Sources, number
from var_core.figures.style import (
    BLUE,
    COLUMN,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    label_right,
    letter_panels,
    level,
    new_figure,
)

Floats = NDArray[np.float64]

_SMOOTHED_SHARE = 1 / 40
"""Share of the steps that a running mean is over."""

PREDICTORS = {"unigram": ORANGE, "bigram": PURPLE, "model": GREEN}
"""What is compared on held-out text, with its colour."""


def draw(sources: Sources) -> Drawing:
    """Draw training loss and load-balancing loss, with the held-out losses of the model and of n-gram baselines.

    Raises
    ------
    VarError
        If the workflow has not trained the run's model.
    """
    heldout = heldout_losses(sources)
    curve = sources.query("SELECT tokens, loss, load_balancing_loss FROM training WHERE run = $run ORDER BY step")
    tokens, loss, balance = (
        curve.column(name).to_numpy().astype(np.float64) for name in ("tokens", "loss", "load_balancing_loss")
    )
    figure = new_figure(COLUMN, 3.4)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(2.0, 1.0))
    _draw_curve(upper, tokens, loss)
    _draw_baselines(upper, heldout)
    upper.set_ylabel("loss (nats per token)")
    _draw_curve(lower, tokens, balance)
    _draw_balance(lower, sources)
    letter_panels([upper, lower], ["Training, and held-out text", "Load-balancing loss"])
    return Drawing(figure, _caption(heldout, loss, balance, sources))


def heldout_losses(sources: Sources) -> Mapping[str, float]:
    """Mean negative log-likelihood on held-out text in nats per token: the logarithm of the perplexity.

    Raises
    ------
    VarError
        If there is no training record, or it has no held-out perplexities.
    """
    record = (sources.training or {}).get("heldout", {}).get("perplexity")
    if not record:
        raise VarError(
            f"run {sources.run}: training.json has no held-out perplexities; this figure is for models that the "
            "workflow trained, run the model stage again if it did"
        )
    return {name: float(np.log(record[name])) for name in PREDICTORS}


def running_mean(values: Floats, width: int) -> Floats:
    """Mean over up to `width` values around each; fewer at the ends, so that nothing is made up there."""
    ones = np.ones(max(width, 1))
    return np.convolve(values, ones, "same") / np.convolve(np.ones(len(values)), ones, "same")


def _draw_curve(panel: Axes, tokens: Floats, values: Floats) -> None:
    width = min(max(int(len(values) * _SMOOTHED_SHARE), 1), len(values))
    panel.plot(tokens, values, color=BLUE, linewidth=0.5, alpha=0.35)
    panel.plot(tokens, running_mean(values, width), color=BLUE)
    panel.set_xlim(0, tokens[-1])


def _draw_baselines(panel: Axes, heldout: Mapping[str, float]) -> None:
    for name, colour in PREDICTORS.items():
        level(panel, heldout[name], colour)
    low = min(*panel.get_ylim(), min(heldout.values()) - 0.2)
    panel.set_ylim(low, panel.get_ylim()[1])
    texts = [f"{name} {number(heldout[name])}" for name in PREDICTORS]
    label_right(panel, [heldout[name] for name in PREDICTORS], texts, list(PREDICTORS.values()))


def _draw_balance(panel: Axes, sources: Sources) -> None:
    even = float(np.mean([layer.top_k for layer in sources.layers]))
    level(panel, even, GREY, ":")
    low, high = panel.get_ylim()
    panel.set_ylim(min(low, even - 0.05 * (high - low)), high)
    label_right(panel, [even], [f"even: {even:g}"], [GREY])
    panel.xaxis.set_major_formatter(EngFormatter(sep=""))
    panel.set_xlabel("tokens trained on")
    panel.set_ylabel("loss")


def _caption(heldout: Mapping[str, float], loss: Floats, balance: Floats, sources: Sources) -> str:
    gain = heldout["bigram"] - heldout["model"]
    told = ", ".join(f"{name} {number(value)} (perplexity {np.exp(value):,.0f})" for name, value in heldout.items())
    last = max(len(loss) // 20, 1)
    verdict = (
        "so it has learned more than pairs of tokens hold"
        if gain > 0
        else "so it is no better than counting pairs of tokens, and its routing may mean little"
    )
    return (
        "Has the model learned more than counts of tokens, and does it use all its experts? (a) Loss on the training "
        f"text, a running mean over single steps; dashed, the loss on held-out text in nats per token: {told}. The "
        f"model is {number(abs(gain))} nats {'below' if gain > 0 else 'above'} the bigram baseline, {verdict}. "
        f"In the last twentieth of the training the loss is {number(float(loss[-last:].mean()))}. (b) The "
        f"load-balancing loss, which is {sources.layers[0].top_k} where all experts are used alike, ends at "
        f"{number(float(balance[-last:].mean()))}."
    )
