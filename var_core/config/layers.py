"""Configuration files laid over one another, as Snakemake lays those of ``--configfile`` over the default."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from var_core.config.root import Config, parse_config, read_yaml
from var_core.errors import VarError

DEFAULT_CONFIG = Path("config/config.yaml")


def load_layers(paths: Sequence[Path], key: str | None = None) -> Config:
    """Read the default configuration, where there is one, and lay the given files over it: key by key, lists whole.

    Parameters
    ----------
    paths : sequence of Path
        What ``--configfile`` names, in the same order.
    key : str, optional
        Where in the files this workflow's configuration stands, if it is a module of another workflow; its default
        file is then not read.

    Raises
    ------
    VarError
        If a file is missing or not readable, or all together are not a valid configuration.
    """
    default = key is None and (DEFAULT_CONFIG.is_file() or not paths)
    layers = [*([DEFAULT_CONFIG] if default else []), *paths]
    values: Any = {}
    for path in layers:
        layer = read_yaml(path)
        values = _laid_over(values, layer) if isinstance(layer, Mapping) else layer
    names = ", ".join(map(str, layers))
    if key is not None:
        if not isinstance(values, Mapping) or key not in values:
            raise VarError(f"--key: {names or 'no --configfile was given'}: there is no key {key}")
        values, names = values[key], f"{names}: {key}"
    return parse_config(values, names)


def _laid_over(below: Any, above: Any) -> Any:
    if not (isinstance(below, Mapping) and isinstance(above, Mapping)):
        return above
    return {**below, **{key: _laid_over(below.get(key), value) for key, value in above.items()}}
