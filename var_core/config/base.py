"""What every block of the configuration has in common."""

from pydantic import BaseModel, ConfigDict


class Block(BaseModel):
    """A block of settings: unknown keys are refused, values are checked, and nothing changes later."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, use_attribute_docstrings=True)
