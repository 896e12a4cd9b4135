"""Names that counted, profiled and modelled costs share."""

ATTENTION = "attention"
GATE = "gate"
TOP_K = "top_k"
DISPATCH = "dispatch"
EXPERTS = "experts"
SHARED_EXPERTS = "shared_experts"
DENSE = "dense"
OTHER = "other"
LM_HEAD = "lm_head"
PARTS = (ATTENTION, GATE, TOP_K, DISPATCH, EXPERTS, SHARED_EXPERTS, DENSE, OTHER, LM_HEAD)
"""Parts of a forward pass, in the order in which a layer runs them.

``dispatch`` brings tokens to their experts and sums what comes back; ``dense`` is the MLP of layers without experts (or
beside them); ``other`` is norms, embeddings, rotary positions and whatever else there is.
"""

POLICY_DECISION = "policy_decision"
CACHE = "cache"
AUDIT = "audit"
POLICY_PARTS = (POLICY_DECISION, CACHE, AUDIT)
"""What a policy adds to them."""

PREFILL = "prefill"
DECODE = "decode"
PHASES = (PREFILL, DECODE)
"""Reading a prompt, and generating one token for each sequence."""
