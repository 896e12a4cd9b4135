"""Settings of what is measured on captured and recorded routing."""

from typing import Annotated

from pydantic import Field

from var_core.config.base import Block, Distinct


class StatisticsConfig(Block):
    """What is measured beside the counts."""

    segment_windows: Annotated[tuple[Annotated[int, Field(ge=2)], ...], Distinct] = (16,)
    """lengths, in tokens, of the windows that segment predictability is measured in; needs the trace of a split"""
