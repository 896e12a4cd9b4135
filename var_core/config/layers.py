"""Configuration files laid over one another, as Snakemake lays those of ``--configfile`` over the default."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from var_core.config.root import Config, parse_config, read_yaml

DEFAULT_CONFIG = Path("config/config.yaml")


def load_layers(paths: Sequence[Path]) -> Config:
    """Read the default configuration, where there is one, and lay the given files over it: key by key, lists whole.

    Parameters
    ----------
    paths : sequence of Path
        What ``--configfile`` names, in the same order.

    Raises
    ------
    VarError
        If a file is missing or not readable, or all together are not a valid configuration.
    """
    layers = [*([DEFAULT_CONFIG] if DEFAULT_CONFIG.is_file() or not paths else []), *paths]
    values: Any = {}
    for path in layers:
        layer = read_yaml(path)
        values = _laid_over(values, layer) if isinstance(layer, Mapping) else layer
    return parse_config(values, ", ".join(map(str, layers)))


def _laid_over(below: Any, above: Any) -> Any:
    if not (isinstance(below, Mapping) and isinstance(above, Mapping)):
        return above
    return {**below, **{key: _laid_over(below.get(key), value) for key, value in above.items()}}
