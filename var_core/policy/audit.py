"""The audit of a running policy: which decisions are re-routed in the shadow, and when their agreement has fallen.

The monitor is a test by betting (Waudby-Smith and Ramdas 2023, "Estimating means of bounded random variables by
betting"): for each layer a gambler starts with 1 and bets, at odds that are fair or worse while the mean is at least
what was certified, that it is below. By Ville's inequality (1939) a capital of 1/alpha is then ever reached with
probability at most alpha, however long the stream and however often one looks.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from var_core.errors import VarError

Floats = NDArray[np.float64]
Whole = TypeVar("Whole", bound="NDArray[np.int64] | torch.Tensor | int")

BETS = np.geomspace(0.004, 0.9, 20)
"""Shares of what may be lost at most that are bet; a bet of drop / certified is the best against that drop."""

HIGHEST_CERTIFIED = 0.999
"""Above it, one wrong decision in some thousands is a disproof, and products of a chunk might overflow; see
:func:`watched_agreement` for certificates that promise more."""

_CHUNK_ROWS = 64
_WORD = 0xFFFFFFFF


class AuditEvent(NamedTuple):
    """A layer's agreement was found to be below what was certified."""

    layer: int
    observed: int
    """audited outcomes of the layer until then"""
    mean: float
    """their mean"""
    certified: float
    capital: float
    """what the bets had made of 1; its inverse is an anytime-valid p-value"""


class AuditMonitor:
    """Anytime-valid tests, one a layer, that audited outcomes in [0, 1] have a mean of at least `certified`.

    Guarantee: if at every audited outcome of a layer its expectation, given all before it, is at least `certified`,
    then an alarm for this layer is ever raised with probability at most `alpha` / `family`. With `family` layers (the
    default), any false alarm at any of them has probability at most `alpha`, whatever the dependence between layers.

    An outcome may be a decision or the mean of a sequence's audited decisions (:func:`sequence_means`). The guarantee
    asks for the former that no stretch of text is below the certified mean; a certificate over sequences promises only
    that their average is not. A sequence of hard text then raises an alarm that the certificate does not contradict;
    the means of independent sequences do not, and are slower. Sequences that depend on each other, such as parts of one
    document in a row, are as bad as the decisions of one: give the means of such groups, as
    :class:`var_core.policy.clusters.ClusterMeans` makes them.

    Capital is spread over a fixed grid of bets and over starting times: before its t-th outcome a layer puts
    1/log2(t+1) - 1/log2(t+2) of its unit into play and keeps 1/log2(t+2). All of it in play from the start would be
    lost during a long time of good agreement, and a shift found late in proportion to that time (on mixtures over
    starting times see Shin, Ramdas and Rinaldo 2024, "E-detectors"; here they sum to 1, so the probability of a false
    alarm is bounded for all time and not only its rate). A layer that has raised an alarm is no longer watched.

    Parameters
    ----------
    certified : float array, shape (L,)
        Mean that is certified at each layer, in [0, ``HIGHEST_CERTIFIED``]; 0: nothing is, no alarm is possible.
        :func:`watched_agreement` makes it of a certificate's promises.
    alpha : float
        Probability of a false alarm.
    family : int, optional
        Number of layers among which `alpha` is divided; the number of layers by default.
    """

    def __init__(self, certified: ArrayLike, alpha: float, family: int | None = None) -> None:
        self.certified = np.atleast_1d(np.asarray(certified, dtype=np.float64))
        layers = len(self.certified)
        if not ((self.certified >= 0) & (self.certified <= HIGHEST_CERTIFIED)).all():
            raise VarError(f"certified agreement: give each layer's between 0 and {HIGHEST_CERTIFIED}")
        if not 0 < alpha < 1:
            raise VarError(f"audit: alpha is {alpha:g}; give a probability between 0 and 1")
        self.alpha = float(alpha)
        self.family = layers if family is None else int(family)
        self.observed = np.zeros(layers, dtype=np.int64)
        self.total = np.zeros(layers)
        self.alarmed = np.zeros(layers, dtype=np.bool_)
        self.events: list[AuditEvent] = []
        self._stakes = np.zeros((layers, len(BETS)))

    @property
    def threshold(self) -> float:
        """Capital at which a layer raises an alarm."""
        return self.family / self.alpha

    @property
    def capital(self) -> Floats:
        """What each layer's bets have made of 1, [L]; the largest so far has an inverse that is a p-value."""
        return self._stakes.mean(axis=1) + _kept(self.observed)

    def update(self, outcomes: ArrayLike, audited: ArrayLike) -> list[AuditEvent]:
        """Take in a batch of outcomes, in their order; the same as one row after another.

        Parameters
        ----------
        outcomes : float array, shape (N, L)
            In [0, 1] where audited; not read elsewhere.
        audited : bool array, shape (N, L)

        Returns
        -------
        list of AuditEvent
            Alarms that this batch raised; they are also in ``events``.
        """
        mask = np.asarray(audited, dtype=np.bool_)
        values = np.where(mask, np.asarray(outcomes, dtype=np.float64), 0.0)
        if not ((values >= 0) & (values <= 1)).all():
            raise ValueError("audited outcomes must be numbers between 0 and 1")
        before = len(self.events)
        for start in range(0, len(mask), _CHUNK_ROWS):
            rows = slice(start, start + _CHUNK_ROWS)
            self._update_chunk(values[rows], mask[rows] & ~self.alarmed)
        return self.events[before:]

    def _update_chunk(self, outcomes: Floats, audited: NDArray[np.bool_]) -> None:
        """Take in so few rows that products of their factors neither overflow nor vanish.

        Stakes follow S_t = (S_{t-1} + w_t) f_t, that is F_t (S_0 + sum of w_s / F_{s-1}) with F the product of f.
        """
        number = self.observed + np.cumsum(audited, axis=0)
        total = self.total + np.cumsum(np.where(audited, outcomes, 0.0), axis=0)
        gains = np.where(audited, (self.certified - outcomes) / (1 - self.certified), 0.0)
        products = np.cumprod(1 + BETS * gains[:, :, None], axis=0)
        added = np.where(audited, _kept(np.maximum(number - 1, 0)) - _kept(number), 0.0)[:, :, None].repeat(
            len(BETS), axis=2
        )
        added[1:] /= products[:-1]
        added[0] += self._stakes
        stakes = np.cumsum(added, axis=0, out=added)
        stakes *= products
        capital = stakes.mean(axis=2) + _kept(number)

        reached = (capital >= self.threshold) & audited
        alarms = reached.any(axis=0)
        last = np.where(alarms, reached.argmax(axis=0), len(capital) - 1)
        layers = np.arange(len(last))
        self._stakes, self.observed, self.total = stakes[last, layers], number[last, layers], total[last, layers]
        self.alarmed = self.alarmed | alarms
        for row, layer in sorted(zip(last[alarms].tolist(), layers[alarms].tolist(), strict=True)):
            observed = int(number[row, layer])
            mean, certified = float(total[row, layer]) / observed, float(self.certified[layer])
            self.events.append(AuditEvent(layer, observed, mean, certified, float(capital[row, layer])))

    def to_dict(self) -> dict[str, Any]:
        """The whole state as numbers and lists, for JSON; :meth:`from_dict` goes on from there exactly."""
        return {
            "alpha": self.alpha,
            "family": self.family,
            "certified": self.certified.tolist(),
            "observed": self.observed.tolist(),
            "total": self.total.tolist(),
            "stakes": self._stakes.tolist(),
            "alarmed": self.alarmed.tolist(),
            "events": [event._asdict() for event in self.events],
        }

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> "AuditMonitor":
        """Build the monitor from what :meth:`to_dict` gave.

        Raises
        ------
        VarError
            If something is missing or of another shape.
        """
        try:
            monitor = cls(state["certified"], state["alpha"], state["family"])
            shape = monitor.certified.shape
            monitor.observed = _shaped(state["observed"], np.int64, shape)
            monitor.total = _shaped(state["total"], np.float64, shape)
            monitor._stakes = _shaped(state["stakes"], np.float64, (*shape, len(BETS)))
            monitor.alarmed = _shaped(state["alarmed"], np.bool_, shape)
            monitor.events = [AuditEvent(**event) for event in state["events"]]
        except (KeyError, TypeError, ValueError) as error:
            raise VarError(f"state of the audit: {error}; start the audit anew, without it") from error
        return monitor


def _kept(observed: NDArray[np.int64]) -> Floats:
    """Share of the unit that is not in play after so many outcomes."""
    return np.asarray(1 / np.log2(observed + 2.0))


def _shaped(values: Any, dtype: Any, shape: tuple[int, ...]) -> NDArray[Any]:
    array = np.asarray(values, dtype=dtype)
    if array.shape != shape:
        raise ValueError(f"an array of shape {array.shape} where {shape} belongs")
    return array


def watched_agreement(promises: Iterable[Mapping[str, Any]], layers: int) -> Floats:
    """What a monitor watches of a certificate's promises: the set agreement that each layer keeps at least.

    A promise above ``HIGHEST_CERTIFIED`` (1.0 where everything agreed) is watched at that. What is claimed of the
    layer is then less than what was certified: false alarms are as rare as stated, and an agreement between the two
    is not noticed.

    Parameters
    ----------
    promises : iterable of mapping
        ``"promises"`` of a certificate; those of other things than layers' set agreement are passed over.
    layers : int
        L.

    Returns
    -------
    float64 array, shape (L,)
        0 at layers of which nothing was promised, such as those without a fast path; it may be all of them.

    Raises
    ------
    VarError
        If something is promised of a layer that is not there.
    """
    watched = np.zeros(layers)
    own = [each for each in promises if "layer" in each and each["name"].startswith("set_agreement")]
    for promise in own:
        if not 0 <= promise["layer"] < layers:
            raise VarError(f"audit: the certificate promises something of layer {promise['layer']} of {layers}")
        watched[promise["layer"]] = min(promise["bound"], HIGHEST_CERTIFIED)
    return watched


def sequence_means(outcomes: ArrayLike, audited: ArrayLike, sequence: ArrayLike) -> tuple[Floats, NDArray[np.bool_]]:
    """Mean of each sequence's audited outcomes, in the order of the sequences' numbers.

    Parameters
    ----------
    outcomes, audited : arrays, shape (N, L)
    sequence : int array, shape (N,)
        Which sequence each row is of; all rows of a sequence must be given at once.

    Returns
    -------
    means, present : arrays, shape (S, L)
        What :meth:`AuditMonitor.update` takes; `present` where the layer has an audited outcome in the sequence.
    """
    mask = np.asarray(audited, dtype=np.bool_)
    values = np.where(mask, np.asarray(outcomes, dtype=np.float64), 0.0)
    numbers, rows = np.unique(np.asarray(sequence), return_inverse=True)
    sums, counts = np.zeros((len(numbers), mask.shape[1])), np.zeros((len(numbers), mask.shape[1]))
    np.add.at(sums, rows, values)
    np.add.at(counts, rows, mask)
    return np.divide(sums, counts, out=np.zeros(sums.shape), where=counts > 0), counts > 0


def is_audited(share: float, seed: int, sequence: Whole, position: Whole, layer: Whole) -> Any:
    """Whether decisions are audited: a `share` of them, by a hash of where they are and nothing else.

    The same decisions of a text are audited whatever the batches and the device, and those of a smaller share are
    among those of a larger one. The hash knows nothing of the outcome, so the audited ones are a fair sample.

    Parameters
    ----------
    share : float
        In [0, 1].
    seed : int
    sequence, position, layer : int or int64 array or tensor
        They are broadcast; all arrays, or all tensors of one device.

    Returns
    -------
    bool array or tensor
    """
    word: Any = 0x9E3779B9
    for part in (int(seed), sequence, position, layer):
        wide = _wide(part)
        for half in (wide & _WORD, (wide >> 32) & _WORD):
            word = _mixed((word ^ half) + 0x9E3779B9 & _WORD)
    return word < round(share * 2**32)


def _wide(part: Any) -> Any:
    if isinstance(part, torch.Tensor):
        return part.to(torch.int64)
    return part if isinstance(part, int) else np.asarray(part, dtype=np.int64)


def _mixed(word: Any) -> Any:
    """Wellons' mixer of 32-bit words ("lowbias32", 2018), in 64 bits that never overflow.

    Written with operators that Python's integers, NumPy's arrays and PyTorch's tensors share.
    """
    word = _times(word ^ (word >> 16), 0x7FEB352D)
    word = _times(word ^ (word >> 15), 0x846CA68B)
    return word ^ (word >> 16)


def _times(word: Any, factor: int) -> Any:
    """Low 32 bits of the product, by halves of the factor: the signed product could pass 63 bits."""
    return (word * (factor & 0xFFFF) + ((word * (factor >> 16) & 0xFFFF) << 16)) & _WORD
