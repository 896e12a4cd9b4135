"""Verifiable Adaptive Routing (VAR): whether, from what and to what use MoE routing is predictable.

The rooms of the library, in the order in which data flows: ``config``, ``corpus``, ``models``,
``routing``, ``statistics``, ``traces``, ``capture``, ``warehouse``, ``hypotheses``, ``policy``,
``evaluation``, ``tuning``, ``systems``, ``figures``, ``report``, ``status``, ``preflight``, ``benchmarks``. A room
imports only from rooms before it; ``ARCHITECTURE.md`` has the picture.
"""

__version__ = "0.1.0"
