"""VAR, Verifiable Adaptive Routing: is MoE routing predictable, from what, and what is that worth?

The rooms of the library, in the order in which data flows: ``config``, ``corpus``, ``models``,
``routing``, ``statistics``, ``traces``, ``capture``, ``warehouse``, ``hypotheses``, ``figures``,
``report``. A room imports only from rooms before it; ``ARCHITECTURE.md`` has the picture.
"""

__version__ = "0.1.0"
