"""Putting measured times of a profile beside what was counted of the same passes."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from var_core.errors import VarError
from var_core.systems.calibration import Work
from var_core.systems.names import DISPATCH, EXPERTS, GATE, TOP_K
from var_core.systems.profiles import PLAIN, STOPWATCH, WHOLE

MEASURED_IN = {TOP_K: GATE, DISPATCH: EXPERTS}
"""Where parts are done that are counted apart: routers choose the best, and experts gather and sum up their tokens."""

Pass = tuple[str, int]
"""Phase and batch size."""


class Counted(Protocol):
    """What was counted of a part of a layer, as :class:`var_core.systems.counts.PartCount`."""

    @property
    def part(self) -> str:
        """Its name."""

    @property
    def layer(self) -> int | None:
        """Its layer."""

    @property
    def flops(self) -> float:
        """Operations."""

    @property
    def bytes(self) -> float:
        """Bytes that are moved."""


def profiled_work(
    profiles: pa.Table, counts: Mapping[Pass, Sequence[Counted]], experts_met: Mapping[Pass, float]
) -> tuple[Work, NDArray[np.float64]]:
    """Counted work and measured seconds of the parts of the model as it is.

    Parts that are counted apart and done together (:data:`MEASURED_IN`) are taken together; parts that were measured
    but are not counted are left out.

    Parameters
    ----------
    profiles : pyarrow.Table
        Rows of :data:`var_core.systems.profiles.PROFILES`.
    counts : mapping
        Of each phase and batch size, at the profile's context.
    experts_met : mapping
        Of each of these the distinct experts that are run, over all layers: how often experts begin.

    Raises
    ------
    VarError
        If passes were profiled that were not counted.
    """
    seconds: dict[tuple[Pass, str], float] = {}
    for row in profiles.to_pylist():
        if (row["arm"], row["instrument"]) == (PLAIN, STOPWATCH) and row["part"] != WHOLE:
            key = (row["phase"], row["batch"]), MEASURED_IN.get(row["part"], row["part"])
            seconds[key] = seconds.get(key, 0.0) + row["seconds"]
    passes = list(dict.fromkeys(one for one, _ in seconds))
    missing = [one for one in passes if one not in counts or one not in experts_met]
    if missing:
        phase, batch = missing[0]
        raise VarError(f"calibration: the {phase} of batch {batch} was profiled, but not counted; count it too")
    columns: list[tuple[str, int, float, float, float, int]] = []
    measured = []
    for (one, part), taken in seconds.items():
        own = [each for each in counts[one] if MEASURED_IN.get(each.part, each.part) == part]
        if own:
            launches = experts_met[one] if part == EXPERTS else len({each.layer for each in own})
            flops, moved = sum(each.flops for each in own), sum(each.bytes for each in own)
            columns.append((part, one[1], flops, moved, launches, passes.index(one)))
            measured.append(taken)
    parts, *numbers = zip(*columns, strict=True)
    return Work(parts, *map(np.asarray, numbers)), np.array(measured)
