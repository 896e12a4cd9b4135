"""What a capture job is about to do, and the digests that say whether two jobs do the same."""

import importlib.metadata
from dataclasses import dataclass
from typing import Any

from var_core.config.capture import CaptureConfig
from var_core.config.models import ModelConfig
from var_core.corpus.shards import MicroShard, TokenShard
from var_core.files import digest_of
from var_core.models.folder import ModelRecord
from var_core.routing.scoring import IdentifiedLayout
from var_core.routing.sites import Site

_RESULT_SETTINGS = ("batch_sequences", "max_state_mb", "seed")


@dataclass(frozen=True)
class CapturePlan:
    """Everything that the statistics of a split depend on, but for its sequences.

    Attributes
    ----------
    run, split : str
        The run, ``{model}/{corpus}``, and the split.
    model, corpus : dict
        Names and digests of what decides and what is decided on.
    config : dict
        The settings that change results.
    sites : list of dict
        The MoE layers: ``layer``, ``path``, ``experts``, ``top_k``, ``scoring``, and whether that was ``fitted`` or
        ``assumed`` (``scoring_basis``).
    sequence_length, vocabulary : int
        Tokens a sequence, token ids of the model.
    code : str
        Digest of the stage's code.
    versions : dict
        Versions of the libraries that compute.
    """

    run: str
    split: str
    model: dict[str, Any]
    corpus: dict[str, Any]
    config: dict[str, Any]
    sites: list[dict[str, Any]]
    sequence_length: int
    vocabulary: int
    code: str
    versions: dict[str, str]

    @property
    def digest(self) -> str:
        """Digest of it all; only what agrees in it may be merged."""
        return digest_of(vars(self))

    def provenance(self) -> dict[str, Any]:
        """The record that goes into the metadata of every file."""
        return {"stage": "capture", "plan": self.digest, **vars(self)}


def versions() -> dict[str, str]:
    """Versions of the libraries that compute."""
    return {name: importlib.metadata.version(name) for name in ("torch", "transformers")}


def micro_shard_digest(
    tokens: TokenShard,
    micro_shard: MicroShard,
    model: ModelRecord,
    model_config: ModelConfig,
    config: CaptureConfig,
    code: str,
    trace: bool,
) -> str:
    """Identity of a micro-shard's results: a digest of all that they depend on, known before the model is loaded.

    Neither the number of shards is in it nor what says how, and on what machine, they are captured: another job of
    another shard may continue and use them.
    """
    asked = model_config.model_dump(mode="json", include={"dtype", "quantisation", "exclude_sites", "expect"})
    return digest_of(
        {
            "run": tokens.provenance["run"],
            "split": tokens.provenance["split"],
            "corpus": tokens.provenance["corpus"],
            "tokenizer": tokens.provenance["tokenizer"],
            "isolate_documents": tokens.provenance["isolate_documents"],
            "sequence_length": tokens.length,
            "first": micro_shard.first,
            "content": micro_shard.content,
            "model": {"revision": model.revision, "digest": model.digest, **asked},
            "config": config.model_dump(mode="json", include=set(_RESULT_SETTINGS)),
            "code": code,
            "versions": versions(),
            # No statistic depends on it, but what is kept does.
            "trace": trace,
        }
    )


def result_settings(config: CaptureConfig, dtype: str, quantisation: str, isolate_documents: bool) -> dict[str, Any]:
    """The settings that change what is captured; the others only how, or whether it is accepted."""
    return {
        **{name: getattr(config, name) for name in _RESULT_SETTINGS},
        "dtype": dtype,
        "quantisation": quantisation,
        "isolate_documents": isolate_documents,
    }


def site_records(sites: tuple[Site, ...], identified: IdentifiedLayout) -> list[dict[str, Any]]:
    """Describe the MoE layers for provenance and for the warehouse."""
    return [
        {
            "layer": site.layer,
            "path": site.path,
            "experts": router.experts,
            "top_k": router.top_k,
            "scoring": router.scoring,
            "scoring_basis": basis,
        }
        for site, router, basis in zip(sites, identified.layout.layers, identified.basis, strict=True)
    ]
