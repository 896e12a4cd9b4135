"""Settings of the figures."""

from typing import Annotated, Literal

from pydantic import PositiveInt

from var_core.config.base import Block, Distinct


class FiguresConfig(Block):
    """How figures are drawn."""

    dpi: PositiveInt = 300
    """resolution of the PNG files"""
    formats: Annotated[tuple[Literal["svg", "pdf"], ...], Distinct] = ("svg", "pdf")
    """vector files drawn beside the PNG"""
