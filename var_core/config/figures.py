"""Settings of the figures."""

from typing import Literal

from pydantic import PositiveInt

from var_core.config.base import Block


class FiguresConfig(Block):
    """How figures are drawn."""

    dpi: PositiveInt = 300
    """resolution of the PNG files"""
    formats: tuple[Literal["svg", "pdf"], ...] = ("svg", "pdf")
    """vector files drawn beside the PNG"""
