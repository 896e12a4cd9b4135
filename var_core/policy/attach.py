"""Attaching a saved policy to a model, with the audit that watches over what its certificate promises."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from var_core.corpus.tokenise import DocumentTokenizer
from var_core.errors import VarError
from var_core.files import file_digest
from var_core.models.folder import folder_digest
from var_core.policy.audit import AuditMonitor, watched_agreement
from var_core.policy.certificate import CERTIFICATE, read_certificate
from var_core.policy.clusters import ClusterKeys
from var_core.policy.runtime import Observer, RuntimePolicy
from var_core.policy.shadow import AuditUnit, ShadowAudit
from var_core.policy.store import RECORD, TABLES, Policy, load_policy
from var_core.policy.weighting import Weighting, find_weighting
from var_core.routing.inputs import probe_tokens, text_inputs
from var_core.routing.recorder import Recorder
from var_core.routing.sites import Site, find_sites

_LOGGER = logging.getLogger(__name__)
_PROBED = 256


@dataclass(frozen=True)
class AuditSettings:
    """How a running policy is audited.

    Attributes
    ----------
    share : float
        Share of the sequences whose replaced decisions the router makes again, to compare.
    alpha : float
        Probability that any layer which is as good as certified is ever switched off. It holds for sequences that come
        independently of each other, and are of the kind and length that was certified.
    seed : int
        Another one audits other sequences.
    unit : {"sequence", "decision"}
        What is sampled and counted; see :class:`var_core.policy.shadow.ShadowAudit`.
    cluster : callable, optional
        Of sequences' numbers the keys of the groups that depend on each other, such as parts of one document; each
        group is then one outcome.
    """

    share: float = 0.05
    alpha: float = 0.05
    seed: int = 0
    unit: AuditUnit = "sequence"
    cluster: ClusterKeys | None = None


def attach_policy(
    model: Any,
    folder: Path,
    model_folder: Path | None = None,
    audit: AuditSettings | None = None,
    exclude_sites: tuple[str, ...] = (),
    observers: Sequence[Observer] = (),
    monitor: AuditMonitor | None = None,
    first_sequence: int = 0,
) -> RuntimePolicy:
    """Make the context manager in which a saved policy decides in a model's routers' place.

    Attach once, not once a request, and enter it as often as needed: what is attached anew has an audit that has seen
    nothing, which may raise a false alarm with its whole probability again, and looks at the same places of every text.
    In a new process, go on from `monitor` and `first_sequence` of the last.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        Decoder-only, in evaluation mode.
    folder : Path
        The policy's.
    model_folder : Path, optional
        Where the model and its tokenizer were loaded from; by default what the model says itself.
    audit : AuditSettings, optional
        Watch what the policy's certificate promises of each layer's agreement, and switch off layers that keep it no
        longer; see :class:`var_core.policy.shadow.ShadowAudit`. The bound on false alarms holds for sequences that come
        independently of each other, and are of the kind and length that was certified; say by its `cluster` which
        depend on each other. A policy whose certificate promises no layer's agreement is not audited, and a warning
        says so.
    exclude_sites : tuple of str, optional
        As the model's configuration excludes.
    observers : sequence of Observer, optional
        Others that look on.
    monitor : AuditMonitor, optional
        One that has watched this certificate's promises before, such as an earlier process's from its kept state
        (``AuditMonitor.from_dict``); the audit goes on with it, and layers that it has switched off stay so.
        :func:`certified_monitor` makes the first. Needs `audit`.
    first_sequence : int, optional
        Number of the first sequence: an earlier process's :attr:`RuntimePolicy.next_sequence`.

    Returns
    -------
    RuntimePolicy
        To be entered with ``with``, around forward passes and ``generate``.

    Raises
    ------
    VarError
        If the policy was made for another model or tokenizer, its decisions cannot be made in this one, or an audit is
        asked for and there is no certificate, or `monitor` watches something else than it promises.
    """
    if monitor is not None and audit is None:
        raise VarError(f"{folder}: an audit's monitor was given, and not what it looks at; give audit=AuditSettings()")
    source = Path(model_folder or str(getattr(model.config, "_name_or_path", "")))
    if not (source / "config.json").is_file():
        raise VarError(f"{folder}: say by model_folder where the model was loaded from; {source} is no model's folder")
    made_from = {"model": folder_digest(source), "tokenizer": DocumentTokenizer(source).digest}
    policy = load_policy(folder, made_from)
    sites = find_sites(model, exclude_sites)
    auditor = None if audit is None else certified_audit(folder, policy, audit, monitor)
    watching = [*observers, *([] if auditor is None else [auditor])]
    weightings = find_weightings(model, sites, policy) if policy.settings.weights == "live" else {}
    return RuntimePolicy(
        model, sites, policy.layout, policy.tables, policy.settings, weightings, watching, first_sequence
    )


def certified_audit(
    folder: Path, policy: Policy, settings: AuditSettings, monitor: AuditMonitor | None = None
) -> ShadowAudit | None:
    """The audit of what a policy's certificate promises; None, and a warning, if it promises nothing of any layer.

    Parameters
    ----------
    folder : Path
        The policy's.
    policy : Policy
    settings : AuditSettings
    monitor : AuditMonitor, optional
        One that has watched these promises before, and goes on.

    Raises
    ------
    VarError
        If there is no certificate, it is not this policy's, or the monitor watches something else.
    """
    fresh = certified_monitor(folder, policy, settings)
    if fresh is None:
        return None
    if monitor is not None and not (
        np.array_equal(monitor.certified, fresh.certified) and monitor.threshold == fresh.threshold
    ):
        raise VarError(
            f"{folder / CERTIFICATE}: the audit's kept state is of other promises, or of another alpha; start the "
            "audit anew, without it"
        )
    return ShadowAudit(monitor or fresh, settings.share, settings.seed, settings.unit, settings.cluster)


def certified_monitor(folder: Path, policy: Policy, settings: AuditSettings) -> AuditMonitor | None:
    """A monitor, which has seen nothing yet, of what a policy's certificate promises of each layer's agreement.

    It is for those who keep its state between processes (:meth:`var_core.policy.audit.AuditMonitor.to_dict`).

    Returns
    -------
    AuditMonitor or None
        None, and a warning, if nothing is promised.

    Raises
    ------
    VarError
        If there is no certificate, or it is not this policy's.
    """
    certificate = read_certificate(folder)
    written = certificate.get("files", {})
    same = all(written.get(name) == file_digest(folder / name) for name in (RECORD, TABLES))
    if certificate["made_from"] != policy.made_from or not same:
        raise VarError(f"{folder / CERTIFICATE}: is not of the policy beside it; certify it again")
    watched = watched_agreement(certificate["promises"], len(policy.layout))
    if not watched.any():
        _LOGGER.warning(
            "%s: promises nothing of any layer's agreement, so there is nothing to watch; no audit",
            folder / CERTIFICATE,
        )
        return None
    return AuditMonitor(watched, settings.alpha)


def find_weightings(model: Any, sites: tuple[Site, ...], policy: Policy) -> dict[int, Weighting]:
    """How each layer of a model weights the experts that it chose, found on a few token ids."""
    embeddings = model.get_input_embeddings()
    probe = probe_tokens(embeddings.num_embeddings, _PROBED, 64).to(embeddings.weight.device)
    with Recorder(sites) as recorder, torch.inference_mode():
        model(**text_inputs(model, probe))
        batch = recorder.take()
    return {site.layer: find_weighting(site.layer, policy.layout, batch) for site in sites}
