"""The audit of a running policy: a share of its decisions is made again by the router, and compared."""

import logging
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch

from var_core.errors import VarError
from var_core.policy.audit import AuditEvent, AuditMonitor, is_audited
from var_core.policy.clusters import ClusterKeys, ClusterMeans
from var_core.policy.runtime import DecisionRecord, Observer, RuntimePolicy
from var_core.policy.sequences import Tokens
from var_core.policy.ways import Way

AuditUnit = Literal["sequence", "decision"]
_LOGGER = logging.getLogger(__name__)


class ShadowAudit(Observer):
    """Has the router decide again about a sample of what tables and cache decided, and switches off layers that fail.

    The model goes on with the policy's decisions; only the comparison is new. A layer at which the monitor raises an
    alarm is left to its router from the next pass on.

    The bound on false alarms holds for sequences that come independently of each other, and are of the kind and length
    that was certified. Those that come in groups, such as parts of one document or the turns of one user, are not:
    a few hard groups are then taken for many hard sequences, and a policy that keeps its promise is switched off. Say
    by `cluster` which belong together; a group counts once then, as the clusters of a certificate do.

    Parameters
    ----------
    monitor : AuditMonitor
        Tests what was certified of each layer.
    share : float
        Of all decisions.
    seed : int, optional
        Another one audits other decisions.
    unit : {"sequence", "decision"}, optional
        What is sampled and given to the monitor: sequences, each the mean of all its replaced decisions, when it has
        ended, as certificates count; or single decisions, behind every pass. The second is for few and long sequences.
        It tests more than a certificate over sequences promises: that no stretch of text is worse than the certified
        mean.
    cluster : callable, optional
        Of numbers of sequences, int64 [S], the keys of the groups that they are of, int64 [S]. Sequences of one key
        that follow each other are given to the monitor as one outcome, the mean of their means, when the first of
        another key has ended, or the policy is taken out of the model. By default every sequence is its own group.

    Raises
    ------
    VarError
        If decisions are to be given to the monitor one by one, and in groups too.
    """

    def __init__(
        self,
        monitor: AuditMonitor,
        share: float,
        seed: int = 0,
        unit: AuditUnit = "sequence",
        cluster: ClusterKeys | None = None,
    ) -> None:
        if cluster is not None and unit != "sequence":
            raise VarError("audit: groups are of sequences; leave out either cluster or unit")
        self.monitor, self.share = monitor, share
        self._seed, self._unit = seed, unit
        self._clusters = None if cluster is None else ClusterMeans(cluster, len(monitor.certified))
        self._sequences: np.ndarray | None = None
        layers = len(monitor.certified)
        self._sums, self._counts = np.zeros((0, layers)), np.zeros((0, layers), np.int64)
        self._chosen = torch.zeros(0, dtype=torch.bool)
        # Of the pass that is running, by layer: tokens in the sample; whether decisions agree, and which are replaced.
        self._samples: dict[int, torch.Tensor] = {}
        self._pass: dict[int, torch.Tensor] = {}

    def begins(self, policy: RuntimePolicy, tokens: Tokens) -> None:
        """Take in the sequences that have ended; choose the sample of those that begin."""
        numbers = tokens.sequence.numpy()
        if self._sequences is None or numbers[0] != self._sequences[0]:
            self._close(policy)
            # A monitor that goes on from an earlier process has found some already.
            policy.active[torch.from_numpy(self.monitor.alarmed)] = False
            shape = (len(numbers), len(self.monitor.certified))
            self._sequences, self._sums, self._counts = numbers, np.zeros(shape), np.zeros(shape, np.int64)
            self._chosen = torch.from_numpy(is_audited(self.share, self._seed, numbers, 0, 0))
        self._pass.clear()
        self._samples.clear()

    def asks(self, layer: int, tokens: Tokens) -> torch.Tensor | None:
        """The sample: whole sequences, or decisions; which are in it depends on nothing but their place."""
        if self._unit == "decision":
            sample = is_audited(self.share, self._seed, tokens.sequence[:, None], tokens.place, layer)
        else:
            sample = self._chosen[:, None]
        sample = (sample & tokens.counts).flatten()
        if not sample.numpy().any():
            return None
        self._samples[layer] = sample
        return sample

    def decided(self, record: DecisionRecord) -> None:
        """Compare; what comes of it stays on its device."""
        if record.layer in self._samples:
            replaced = (record.way == int(Way.FAST)) | (record.way == int(Way.CACHED))
            same = (record.experts.sort(dim=1).values == record.learned_experts.sort(dim=1).values).all(dim=1)
            self._pass[record.layer] = torch.stack((same, replaced))

    def passed(self, policy: RuntimePolicy) -> None:
        """Take in the decisions of a pass, in the order of the tokens."""
        if not self._pass:
            return
        layers = list(self._pass)
        same, replaced = torch.stack(list(self._pass.values()), dim=1).cpu().numpy()
        masks = replaced & torch.stack([self._samples[layer] for layer in layers]).numpy()
        outcomes = same & masks
        shape = (len(layers), len(self._sums), -1)
        self._sums[:, layers] += outcomes.reshape(shape).sum(axis=2).T
        self._counts[:, layers] += masks.reshape(shape).sum(axis=2).T
        if self._unit == "decision":
            given = np.zeros((2, outcomes.shape[1], len(self.monitor.certified)), np.bool_)
            given[:, :, layers] = outcomes.T, masks.T
            self._switch_off(policy, self.monitor.update(given[0].astype(np.float64), given[1]))

    def ended(self, policy: RuntimePolicy) -> None:
        """Take in the last sequences."""
        self._close(policy)
        if self._clusters is not None:
            self._switch_off(policy, self.monitor.update(*self._clusters.end()))

    def _close(self, policy: RuntimePolicy) -> None:
        if self._unit == "sequence" and len(self._counts):
            means = np.divide(self._sums, self._counts, out=np.zeros_like(self._sums), where=self._counts > 0)
            outcomes = means, self._counts > 0
            if self._clusters is not None and self._sequences is not None:
                outcomes = self._clusters.add(self._sequences, *outcomes)
            self._switch_off(policy, self.monitor.update(*outcomes))
        self._sequences = None
        self._sums, self._counts = self._sums[:0], self._counts[:0]

    def _switch_off(self, policy: RuntimePolicy, events: Sequence[AuditEvent]) -> None:
        for event in events:
            policy.active[event.layer] = False
            _LOGGER.warning(
                "MoE layer %d: agreement %.3f over %d audited %ss is below the certified %.3f; its router decides "
                "alone from now on",
                event.layer, event.mean, event.observed, self._unit if self._clusters is None else "cluster",
                event.certified,
            )  # fmt: skip
