"""Loading a model: the same code whether it comes from the hub, from a local folder, or was trained here."""

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from var_core.config.models import ModelConfig, PretrainedModel
from var_core.errors import VarError
from var_core.models.folder import check_model_folder, folder_digest, max_positions, read_model_config, read_record
from var_core.models.placement import Placement, input_device
from var_core.models.prequantised import prequantised_options, quantised_as
from var_core.models.quantised import expert_bytes, missing_package
from var_core.models.quantiser import ExpertsQuantisation

_LOGGER = logging.getLogger(__name__)
_FETCH_AGAIN = "run `snakemake --forcerun fetch_model`"


@dataclass(frozen=True)
class LoadedModel:
    """A model in memory, ready for forward passes without gradients.

    Attributes
    ----------
    model : transformers.PreTrainedModel
        The model in evaluation mode: with its language-model head, or only up to the last hidden states.
    name : str
        The model's name in the configuration.
    revision : str or None
        Commit of the hub's repository; None for models that are not from the hub.
    digest : str
        Digest of the model's folder (see :func:`var_core.models.folder.folder_digest`).
    max_positions : int or None
        Longest sequence in tokens; None if the model's configuration does not say.
    vocabulary : int
        Token ids that the model has embeddings for.
    folder : Path
        The model's folder, which also holds its tokenizer.
    device : torch.device
        Where token ids go.
    dtype : str
        Precision of the weights in memory, for example ``"float32"``; of quantised ones, when they are used.
    quantisation : str
        ``"none"``; ``"int8"`` or ``"int4"`` if the experts were quantised here; else the method by which the
        checkpoint is quantised and whether it was undone, for example ``"fp8"`` or ``"mxfp4 dequantised"``.
    """

    model: Any
    name: str
    revision: str | None
    digest: str
    max_positions: int | None
    vocabulary: int
    folder: Path
    device: torch.device
    dtype: str
    quantisation: str


def load_base_model(record: Path, config: ModelConfig, device: str = "auto") -> LoadedModel:
    """Load a model without its language-model head: all that capturing routing needs, and cheaper to run.

    Parameters
    ----------
    record : Path
        The model's ``model.json``.
    config : ModelConfig
        How to load it.
    device : str, optional
        A torch device, or ``"auto"``: the GPU when there is one.

    Raises
    ------
    VarError
        As :func:`load_model`.
    """
    return load_model(record, head=False, device=device, **_how(config))


def load_causal_model(record: Path, config: ModelConfig, device: str = "auto") -> LoadedModel:
    """Load a model with its language-model head, for perplexity; parameters as :func:`load_base_model`."""
    return load_model(record, head=True, device=device, **_how(config))


def _how(config: ModelConfig) -> dict[str, Any]:
    if isinstance(config, PretrainedModel):
        own = config.model_dump(
            include={"device_map", "max_memory", "offload_folder", "quantisation", "trust_remote_code"}
        )
    else:
        own = {}
    return {"dtype": config.dtype, **own}


def load_model(
    record: Path,
    head: bool,
    dtype: str = "auto",
    device: str = "auto",
    device_map: str | None = None,
    max_memory: dict[str, str] | None = None,
    offload_folder: str | None = None,
    quantisation: str = "none",
    trust_remote_code: bool = False,
) -> LoadedModel:
    """Load the model that a record points to, offline, from safetensors weights only.

    Parameters
    ----------
    record : Path
        The model's ``model.json``.
    head : bool
        With the language-model head, or only up to the last hidden states.
    dtype : str, optional
        ``"float32"``, ``"bfloat16"``, ``"float16"``, or ``"auto"``: as stored.
    device : str, optional
        A torch device, or ``"auto"``: the GPU when there is one. Not used with `device_map`.
    device_map : str or None, optional
        How accelerate spreads the model over devices; None: one device.
    max_memory, offload_folder : optional
        As :class:`var_core.models.placement.Placement`; only used with `device_map`.
    quantisation : str, optional
        ``"none"``, or a key of :data:`var_core.models.quantised.CODECS`: experts packed, and nothing else.
    trust_remote_code : bool, optional
        Run Python code that comes with the model.

    Returns
    -------
    LoadedModel
        In evaluation mode; its parameters take no gradients.

    Raises
    ------
    VarError
        If the folder is missing or incomplete, has changed since it was recorded, is of an architecture that
        transformers does not know, its weights do not fit its configuration, are quantised in a way that hides
        decisions, or do not fit where they shall go.
    """
    about = read_record(record)
    if about.source == "hub" and not about.folder.is_dir():
        raise VarError(f"{about.folder}: the download of models.{about.name} is no longer there; {_FETCH_AGAIN}")
    check_model_folder(about.folder)
    if folder_digest(about.folder) != about.digest:
        again = "run the model stage again" if about.source == "demo" else _FETCH_AGAIN
        raise VarError(f"{about.folder}: has changed since {record} was written; {again}")
    _check_own_code(about.name, about.folder, trust_remote_code)
    if trust_remote_code:
        _LOGGER.warning("models.%s.trust_remote_code: Python code in %s may run", about.name, about.folder)
    kind = transformers.AutoModelForCausalLM if head else transformers.AutoModel
    placement = Placement(about.name, device, device_map, max_memory, offload_folder)
    try:
        with _quiet():
            model, report = kind.from_pretrained(
                str(about.folder),
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=trust_remote_code,
                dtype=dtype if dtype == "auto" else getattr(torch, dtype),
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are refused below, by name
                **placement.options(),
                **_quantisation_options(about.name, about.folder, quantisation, dtype),
            )
    except (
        *(OSError, ValueError, ImportError, SafetensorError, StrictDataclassError),
        torch.OutOfMemoryError,
    ) as error:
        reason = placement.fault(error) or _one_line(error)
        raise VarError(f"models.{about.name}: {about.folder} cannot be loaded: {reason}") from error
    placement.keep_for(model)
    _check_report(report, about.name, about.folder)
    model.eval().requires_grad_(False)
    if quantisation != "none":
        _log_footprint(about.name, model, quantisation)
    return LoadedModel(
        model=model,
        name=about.name,
        revision=about.revision,
        digest=about.digest,
        max_positions=max_positions(about.folder),
        vocabulary=model.get_input_embeddings().weight.shape[0],
        folder=about.folder,
        device=input_device(model),
        dtype=str(model.dtype).removeprefix("torch."),
        quantisation=_quantisation_of(model, about.folder, quantisation),
    )


def _quantisation_options(name: str, folder: Path, quantisation: str, dtype: str) -> dict[str, Any]:
    options = prequantised_options(name, folder, quantisation, dtype)
    if quantisation == "none":
        return options
    package = missing_package(quantisation)
    if package is not None:
        raise VarError(
            f"models.{name}.quantisation: {quantisation} needs {package}, which is not installed; run "
            f"`pip install {package}` (or install var-core[quantised]), or set it to int8"
        )
    return {"quantization_config": ExpertsQuantisation(quantisation)}


def _quantisation_of(model: Any, folder: Path, quantisation: str) -> str:
    """What to record: transformers itself undoes some quantisations where a machine cannot compute with them."""
    method = quantised_as(folder)
    if method is None:
        return quantisation
    return method if getattr(model, "is_quantized", False) else f"{method} dequantised"


def _log_footprint(name: str, model: Any, quantisation: str) -> None:
    packed, unpacked = expert_bytes(model)
    _LOGGER.info(
        "models.%s: the experts take %.1f MiB as %s, %.1f MiB unquantised; the whole model takes %.1f MiB",
        *(name, packed / 2**20, quantisation, unpacked / 2**20, model.get_memory_footprint() / 2**20),
    )


def _check_own_code(name: str, folder: Path, trust_remote_code: bool) -> None:
    config = read_model_config(folder)
    known = config.get("model_type") in transformers.CONFIG_MAPPING
    if "auto_map" in config and not known and not trust_remote_code:
        raise VarError(
            f"models.{name}.trust_remote_code: is false, but {folder} is of an architecture that only its own Python "
            "code knows; read that code, then set it to true"
        )


def _check_report(report: dict[str, Any], name: str, folder: Path) -> None:
    """Refuse weights that leave a part of the model random; extra weights are only noted.

    A model without its head leaves the head's weights unused, and many folders carry weights for further heads.
    """
    for fault in ("missing_keys", "mismatched_keys", "error_msgs"):
        if report.get(fault):
            first = sorted(map(str, report[fault]))[0]
            raise VarError(
                f"models.{name}: weights in {folder} do not fit its config.json ({fault.replace('_', ' ')}: "
                f"{len(report[fault])}, first {first}); fetch the model again"
            )
    if report.get("unexpected_keys"):
        unused = sorted(map(str, report["unexpected_keys"]))
        _LOGGER.info("model %s: %d weights not used, first %s", name, len(unused), unused[0])


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence what transformers prints while it loads; what matters of it is checked and logged here."""
    library = transformers.utils.logging
    level, bars = library.get_verbosity(), library.is_progress_bar_enabled()
    library.set_verbosity_error()
    library.disable_progress_bar()
    try:
        yield
    finally:
        library.set_verbosity(level)
        if bars:
            library.enable_progress_bar()
