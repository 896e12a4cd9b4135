"""A model's shape as a file."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from var_core.errors import VarError
from var_core.files import read_json, write_json
from var_core.systems.shape import Experts, LayerShape, Mixing, ModelShape, Weights


def write_shape(path: Path, shape: ModelShape) -> None:
    """Write a shape as JSON."""
    write_json(path, asdict(shape))


def read_shape(path: Path) -> ModelShape:
    """Read a shape that :func:`write_shape` wrote.

    Raises
    ------
    VarError
        If the file is missing, or is no shape.
    """
    values = read_json(path)
    try:
        return ModelShape(
            **{
                **values,
                **{key: _weights(values[key]) for key in ("embedding", "head", "rest", "elsewhere")},
                "layers": tuple(_layer(layer) for layer in values["layers"]),
            }
        )
    except (KeyError, TypeError) as error:
        raise VarError(f"{path}: not the shape of a model ({error}); delete it and run the stage again") from None


def _weights(values: dict[str, Any] | None) -> Weights | None:
    return None if values is None else Weights(**values)


def _layer(values: dict[str, Any]) -> LayerShape:
    experts = values["experts"]
    return LayerShape(
        path=values["path"],
        mixing=tuple(Mixing(**one) for one in values["mixing"]),
        experts=None if experts is None else Experts(**{**experts, "each": _weights(experts["each"])}),
        **{key: _weights(values[key]) for key in ("attention", "gate", "shared_experts", "dense", "other")},
    )
