"""What a capture job is about to do, and the digests that say whether two jobs do the same."""

from dataclasses import dataclass
from typing import Any

from var_core.config.capture import CaptureConfig
from var_core.files import digest_of
from var_core.routing.scoring import IdentifiedLayout
from var_core.routing.sites import Site


@dataclass(frozen=True)
class CapturePlan:
    """Everything that the files of a shard depend on.

    Attributes
    ----------
    run, split : str
        The run, ``{model}/{corpus}``, and the split that the shard is of.
    shard, shards : int
        Which shard of how many.
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
    content : str
        Digest of the shard's sequences.
    trace : bool
        Whether decisions are also kept one by one: no statistic depends on it, but what a checkpoint holds does.
    """

    run: str
    split: str
    shard: int
    shards: int
    model: dict[str, Any]
    corpus: dict[str, Any]
    config: dict[str, Any]
    sites: list[dict[str, Any]]
    sequence_length: int
    vocabulary: int
    code: str
    versions: dict[str, str]
    content: str
    trace: bool

    def shared(self) -> dict[str, Any]:
        """What all shards of a split have in common."""
        record = dict(vars(self))
        for own in ("shard", "content", "trace"):
            del record[own]
        return record

    @property
    def digest(self) -> str:
        """Digest of what all shards of a split have in common; only shards that agree in it may be merged."""
        return digest_of(self.shared())

    @property
    def shard_digest(self) -> str:
        """Digest of everything; only a checkpoint that agrees in it may be continued."""
        return digest_of(vars(self))

    def provenance(self) -> dict[str, Any]:
        """The record that goes into the metadata of every file of the shard."""
        return {
            "stage": "capture",
            "plan": self.digest,
            "shard": self.shard,
            "content": self.content,
            **self.shared(),
        }


def result_settings(config: CaptureConfig, dtype: str, quantisation: str, isolate_documents: bool) -> dict[str, Any]:
    """The settings that change what is captured; the others only how, or whether it is accepted."""
    return {
        "batch_sequences": config.batch_sequences,
        "max_state_mb": config.max_state_mb,
        "seed": config.seed,
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
