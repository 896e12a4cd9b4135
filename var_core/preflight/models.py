"""Whether the models of a configuration are there, or can be fetched."""

from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open

from var_core.config.models import AnyModelConfig, FolderModel, HubModel
from var_core.config.root import Config
from var_core.errors import VarError
from var_core.models.folder import check_model_folder, weight_files
from var_core.preflight.check import Check, failed, passed

_SECONDS = 15.0
# Base of what the hub's HTTP library raises; which library that is depends on the version of huggingface_hub.
_HTTP_ERROR: type[Exception] = HfHubHTTPError.__bases__[0]


def check_models(config: Config) -> list[Check]:
    """Look for every model that a run names."""
    return [_check(name, config.models[name]) for name in dict.fromkeys(run.model for run in config.runs)]


def _check(name: str, config: AnyModelConfig) -> Check:
    line = f"model {name}"
    try:
        if isinstance(config, FolderModel):
            folder = Path(config.path).expanduser()
            _check_whole(folder)
            return passed(line, f"{folder} is whole")
        if isinstance(config, HubModel):
            return _on_the_hub(line, config)
    except VarError as error:
        return failed(line, str(error))
    return passed(line, "nothing to fetch")


def _check_whole(folder: Path) -> None:
    """Refuse a folder with a missing or a cut weight file: only the header of each is read."""
    check_model_folder(folder)
    for path in weight_files(folder):
        try:
            with safe_open(path, framework="np"):
                pass
        except (SafetensorError, OSError) as error:
            raise VarError(f"{path}: not a whole safetensors file ({error}); fetch the model again") from None


def _on_the_hub(line: str, config: HubModel) -> Check:
    """Look in the hub's cache, and if it is not there, whether the hub would give it."""
    where = f"{config.repo} at {config.revision[:12]}"
    try:
        folder = Path(huggingface_hub.snapshot_download(config.repo, revision=config.revision, local_files_only=True))
    except LocalEntryNotFoundError:
        return _reachable(line, where, config)
    _check_whole(folder)
    return passed(line, f"{where} is in the cache ({folder})")


def _reachable(line: str, where: str, config: HubModel) -> Check:
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        return failed(
            line, f"{where} is not in the cache, and HF_HUB_OFFLINE is set; fetch it where there is a network"
        )
    try:
        known = huggingface_hub.HfApi().model_info(
            config.repo, revision=config.revision, timeout=_SECONDS, files_metadata=True
        )
    except (OSError, _HTTP_ERROR) as error:
        reason = " ".join(str(error).split())[:200]
        return failed(
            line,
            f"{where} is not in the cache and cannot be had ({reason}); check the name, `hf auth login` and the "
            "network, or fetch it elsewhere (snakemake model) and copy the folder that HF_HOME names",
        )
    weights = [file.size or 0 for file in known.siblings or [] if file.rfilename.endswith(".safetensors")]
    if not weights:
        return failed(line, f"{where} has no safetensors weights; choose another revision or repository")
    return passed(line, f"{where} is on the hub: {sum(weights) / 1e9:.1f} GB to fetch")
