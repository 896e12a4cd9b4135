"""Evaluations of simulated policies, in tables as the stages write them, to draw the figures of policies from."""

from dataclasses import dataclass

import duckdb
import numpy as np
import pyarrow as pa

from var_core.config.policy import EvaluationConfig
from var_core.evaluation import names
from var_core.evaluation.compare import CERTIFICATES, POLICIES
from var_core.evaluation.on_traces import FREQUENCIES, GAINS
from var_core.evaluation.results import EVALUATIONS, ArmResult, as_table, evaluation_rows
from var_core.evaluation.transfer import TRANSFER
from var_core.figures.sources import Sources
from var_core.hypotheses.results import Verdicts
from var_core.models.perplexity import SequenceScores
from var_core.warehouse.schema import create_tables

TABLES = {
    "evaluations": EVALUATIONS,
    "policy_gains": GAINS,
    "policy_frequencies": FREQUENCIES,
    "policies": POLICIES,
    "certificates": CERTIFICATES,
    "transfer": TRANSFER,
}
RUN = "simulated/text"
COSTS = {
    names.POLICY: 0.02,
    names.TABLES_ONLY: 0.015,
    names.CLASSIC: 0.01,
    names.TOKEN_TABLE: 0.6,
    names.GLOBAL_TABLE: 3.0,
    names.RANDOM_EXPERTS: 4.0,
    names.GLOBAL_TABLE + names.SAME_COVERAGE: 1.0,
    names.RANDOM_EXPERTS + names.SAME_COVERAGE: 1.4,
}
"""Nats a token that each arm costs."""


@dataclass(frozen=True)
class SimulatedEvaluation:
    """What is evaluated, and how the policy does."""

    layers: int = 4
    sequences: int = 40
    domains: tuple[str, ...] = ("code", "docstrings", "reference")
    arms: tuple[str, ...] = tuple(names.arm_names(EvaluationConfig()))
    cached: bool = True
    seed: int = 0

    @property
    def config(self):
        """Settings of the evaluation."""
        return EvaluationConfig(bootstrap=200)

    def tables(self) -> dict[str, pa.Table]:
        """All tables, without the run."""
        random = np.random.default_rng(self.seed)
        rows = {
            "policy_gains": self._gains(random),
            "policy_frequencies": self._frequencies(random),
            "policies": [],
            "certificates": self._certificates(random),
            "transfer": self._transfer(random) if len(self.domains) > 1 else [],
        }
        tables = {name: pa.Table.from_pylist(found, TABLES[name]) for name, found in rows.items()}
        results = [self._arm(arm, random) for arm in self.arms]
        return tables | {"evaluations": as_table(evaluation_rows(results, self.config), EVALUATIONS)}

    def _arm(self, arm, random):
        shares = self._shares(arm)
        predicted = np.full(self.sequences, 255)
        plain = 3.5 + 0.4 * np.random.default_rng(9).normal(size=self.sequences)
        loss = plain + self._cost(arm) * (1 + 0.3 * random.normal(size=self.sequences))
        decisions = random.multinomial(256, shares, size=(self.sequences, self.layers)).astype(float)
        at_layers = np.linspace(0.95, 0.85, self.layers)
        agreement = np.stack([np.ones(self.layers), at_layers, at_layers - 0.1], axis=1)
        recall = 0.1 + 0.9 * agreement + 0.02 * random.normal(size=(self.sequences, 1, 1))
        ways = np.stack([decisions, decisions * (recall - 0.1), decisions * recall])
        domain = np.array(self.domains)[np.arange(self.sequences) % len(self.domains)]
        return ArmResult(
            arm,
            SequenceScores(loss * predicted, predicted),
            np.arange(self.sequences),
            domain,
            None if arm == names.PLAIN else ways,
        )

    def _shares(self, arm):
        """Shares of the ways in the order of their numbers: learned, fast, cached."""
        if arm in (names.ORACLE, names.TOKEN_TABLE, names.GLOBAL_TABLE, names.RANDOM_EXPERTS):
            return 0.0, 1.0, 0.0
        if arm.startswith(names.THRESHOLD):
            fast = 1 - float(arm.removeprefix(names.THRESHOLD)) ** 2 * 0.9
            return 1 - fast, fast, 0.0
        fast, cached = (0.1, 0.05) if arm == names.CLASSIC else (0.45, 0.08)
        cached *= self.cached and arm in (names.POLICY, names.CLASSIC)
        return 1 - fast - cached, fast, cached

    def _cost(self, arm):
        if arm.startswith(names.THRESHOLD):
            return 0.5 * (1 - float(arm.removeprefix(names.THRESHOLD))) ** 3
        return COSTS.get(arm, 0.0)

    def _ends(self, value, width):
        """An interval, where there are sequences enough for one."""
        return {"low": value - width, "high": value + width} if self.sequences >= 10 else {"low": None, "high": None}

    def _gains(self, random):
        rows = []
        for layer in range(self.layers):
            for measure in ("set_agreement", "recall_at_k"):
                for coverage in np.arange(1, 11) / 10:
                    gain = (
                        0.12 * np.sin(np.pi * coverage * 0.8) * (1 - layer / self.layers / 2) + 0.003 * random.normal()
                    )
                    row = {"layer": layer, "measure": measure, "coverage": coverage, "gain": gain}
                    tables = {"token_tables": 0.7, "all_tables": 0.7 + gain}
                    rows.append(row | tables | self._ends(gain, 0.01))
        return rows

    def _frequencies(self, random):
        edges = [0, 1, 3, 10, 32, 100, 316, 1000, 3162, 10_000]
        rows = []
        for arm, better in ((names.TOKEN_TABLE, 0.0), (names.POLICY, 0.08)):
            for layer in (None, *range(self.layers)):
                for place, first in enumerate(edges):
                    value = 0.3 + 0.05 * place + better - 0.02 * (layer or 0) / self.layers + 0.01 * random.normal()
                    last = edges[place + 1] - 1 if place + 1 < len(edges) else None
                    row = {"arm": arm, "layer": layer, "from_count": first, "to_count": last}
                    rows.append(
                        row | {"decisions": 1000 * (place + 1), "set_agreement": value} | self._ends(value, 0.03)
                    )
        return rows

    def _certificates(self, random):
        shared = {"clusters": self.sequences, "sequences": self.sequences, "method": "m", "guarantee": "g"}
        row = shared | {"confidence": 0.95, "promise": "set_agreement", "direction": "at least"}
        agreement = [
            row | {"layer": layer, "bound": 0.6 + 0.02 * random.random(), "estimate": 0.9}
            for layer in range(self.layers)
        ]
        loss = row | {"layer": None, "promise": "clipped_loss_increase", "direction": "at most", "bound": 0.1}
        return [*agreement, loss | {"estimate": 0.02}]

    def _transfer(self, random):
        rows = []
        for made in (*self.domains, "all"):
            for on in self.domains:
                near = made in (on, "all")
                values = {"coverage": 0.5 if near else 0.3, "set_agreement": 0.93 if near else 0.8}
                values |= {"recall_at_k": 0.95, "loss_difference": 0.01 if near else 0.06}
                for measure, value in values.items():
                    value += 0.005 * random.normal()
                    row = {"made_on": made, "evaluated_on": on, "measure": measure, "value": value}
                    rows.append(row | {"n": 10, "n_unit": "clusters"} | self._ends(value, 0.012))
        return rows


def open_tables(tables: dict[str, pa.Table], layers: int, run: str = RUN) -> duckdb.DuckDBPyConnection:
    """A database with the tables of an evaluation and the layers of its run."""
    connection = duckdb.connect()
    create_tables(connection)
    for layer in range(layers):
        connection.execute(
            "INSERT INTO layers (run, layer, path, experts, top_k) VALUES (?, ?, '', 8, 2)", [run, layer]
        )
    for name, table in tables.items():
        connection.register("own", table)
        connection.execute(f"INSERT INTO {name} BY NAME SELECT '{run}' AS run, * FROM own")
        connection.unregister("own")
    return connection


def open_sources(simulation: SimulatedEvaluation, **tables: pa.Table) -> Sources:
    """What figures of a policy are drawn from; tables that are given stand in for the simulated ones."""
    connection = open_tables(simulation.tables() | tables, simulation.layers)
    no_verdicts = Verdicts(run=RUN, provenance={}, versions={}, samples={}, results=(), curves=(), transfers=())
    return Sources(connection, RUN, no_verdicts, evaluation=simulation.config.model_dump(mode="json"))
