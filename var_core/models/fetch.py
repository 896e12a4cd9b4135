"""Fetching a model: a pinned revision from the hub, once, or a local folder taken as it lies."""

import logging
import time
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from var_core.config.models import FolderModel, HubModel, TraceModel
from var_core.errors import VarError
from var_core.files import digest_of, file_digest
from var_core.models.folder import (
    ModelRecord,
    check_model_folder,
    folder_digest,
    read_model_config,
    tokenizer_files,
    write_record,
)

_LOGGER = logging.getLogger(__name__)
_WANTED = ("*.safetensors", "*.json", "*.txt", "*.model", "*.tiktoken", "*.jinja")
_CODE = ("*.py",)
# Base of what the hub's HTTP library raises; which library that is depends on the version of huggingface_hub.
_HTTP_ERROR: type[Exception] = HfHubHTTPError.__bases__[0]
# Subfolders hold other formats of the same weights, and "consolidated" files the authors' own layout of them.
_UNWANTED = ("*/*", "consolidated*")
_WAITS = (5, 20)  # seconds before the second and the third try of a download


def fetch_model(name: str, config: HubModel | FolderModel | TraceModel, output: Path, code: str) -> None:
    """Make sure that a model is on this machine, and write the record that later stages load it by.

    A model from the hub is downloaded into the hub's cache (which ``HF_HOME`` places) and from then on used
    offline; a local folder is left where it is. Both are checked for what loading needs. Of a model whose routing was
    recorded there are only its settings, and a tokenizer where they name one.

    Parameters
    ----------
    name : str
        The model's name in the configuration.
    config : HubModel, FolderModel or TraceModel
        Where the model is.
    output : Path
        The ``model.json`` to write.
    code : str
        Digest of the stage's code.

    Raises
    ------
    VarError
        If the hub cannot be reached and the model is not in the cache, if repository or revision is unknown or not
        open to this user, or if the folder lacks configuration, tokenizer or safetensors weights.
    """
    if isinstance(config, TraceModel):
        write_record(output, _recorded(name, config, output.parent), code)
        return
    if isinstance(config, HubModel):
        folder, revision = _download(name, config)
    else:
        folder, revision = Path(config.path).expanduser().absolute(), None
        if not folder.is_dir():
            raise VarError(f"models.{name}.path: {config.path}: no such folder")
    try:
        check_model_folder(folder)
        needs_code = "auto_map" in read_model_config(folder)
        record = ModelRecord(name, config.source, folder, revision, folder_digest(folder))
    except VarError as error:
        raise VarError(f"models.{name}: {error}") from None
    if needs_code:
        _LOGGER.warning(
            "model %s brings Python code of its own; it runs only if models.%s.trust_remote_code is true", name, name
        )
    more = {"repo": config.repo} if isinstance(config, HubModel) else {}
    write_record(output, record, code, **more)
    _LOGGER.info("model %s is in %s, digest %s", name, folder, record.digest)


def _recorded(name: str, config: TraceModel, beside: Path) -> ModelRecord:
    """Describe a model of which only routing is known; its digest is of what identifies expert and token ids."""
    files: list[Path] = []
    if config.tokenizer is not None:
        folder = Path(config.tokenizer).expanduser()
        files = tokenizer_files(folder) if folder.is_dir() else []
        if not files:
            raise VarError(f"models.{name}.tokenizer: {config.tokenizer}: no folder with a tokenizer")
    known = config.model_dump(mode="json", exclude={"tokenizer"})
    digest = digest_of([name, known, {path.name: file_digest(path) for path in files}])
    return ModelRecord(name, config.source, beside, None, digest)


def _download(name: str, config: HubModel) -> tuple[Path, str]:
    """Download what is needed of a repository; return the folder and the full commit."""
    try:
        folder = _snapshot(config)
    except HFValidationError:
        raise VarError(f"models.{name}.repo: {config.repo!r} is not the name of a repository (owner/name)") from None
    except GatedRepoError:
        raise VarError(
            f"models.{name}.repo: {config.repo} is gated; accept its terms on the hub and log in with `hf auth login`"
        ) from None
    except RepositoryNotFoundError:
        raise VarError(
            f"models.{name}.repo: the hub has no repository {config.repo} that you may read; check the name, or log in "
            "with `hf auth login`"
        ) from None
    except RevisionNotFoundError:
        raise VarError(
            f"models.{name}.revision: {config.repo} has no revision {config.revision}; take a commit from its history"
        ) from None
    except (OSError, _HTTP_ERROR) as error:
        raise _unreachable(name, config, error) from error
    return Path(folder), Path(folder).name


def _snapshot(config: HubModel) -> str:
    """Download again after faults of the network only: what the hub refuses, it refuses again."""
    for wait in (*_WAITS, None):
        try:
            return huggingface_hub.snapshot_download(
                config.repo,
                revision=config.revision,
                allow_patterns=[*_WANTED, *(_CODE if config.trust_remote_code else ())],
                ignore_patterns=list(_UNWANTED),
            )
        except (HFValidationError, GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError):
            raise
        except (OSError, _HTTP_ERROR) as error:
            if wait is None or huggingface_hub.constants.HF_HUB_OFFLINE:
                raise
            _LOGGER.warning("%s: download broke off (%s); trying again in %d s", config.repo, _reason(error), wait)
            time.sleep(wait)
    raise AssertionError("the last try returns or raises")


def _reason(error: BaseException) -> str:
    cause = error.__cause__ or error
    return str(cause).splitlines()[0].rstrip(".") if str(cause) else type(cause).__name__


def _unreachable(name: str, config: HubModel, error: BaseException) -> VarError:
    return VarError(
        f"models.{name}: {config.repo} at {config.revision} is not in the cache and could not be downloaded "
        f"({_reason(error)}); check the network and HF_HUB_OFFLINE, or give a local folder (source: folder)"
    )
