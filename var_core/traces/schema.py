"""The Parquet schema of a trace: one row a decision, in order of sequence, position and layer."""

import pyarrow as pa

TRACE = pa.schema(
    [
        pa.field("sequence", pa.int32(), nullable=False),
        pa.field("position", pa.int32(), nullable=False),
        pa.field("layer", pa.int16(), nullable=False),
        pa.field("document", pa.int32(), nullable=False),
        pa.field("domain", pa.dictionary(pa.int16(), pa.string()), nullable=False),
        pa.field("token_id", pa.int32()),
        pa.field("experts", pa.list_(pa.int16()), nullable=False),
        pa.field("weights", pa.list_(pa.float32())),
        pa.field("router_entropy", pa.float32()),
        pa.field("confidence", pa.float32()),
        pa.field("margin", pa.float32()),
    ]
)
"""``position`` is the place in the sequence from 0; ``document`` the row of ``documents.parquet``; ``experts`` and
``weights`` are what the experts module was given, in its order (not always sorted by weight). ``token_id``,
``weights`` and what is computed from logits are null where they were not recorded."""
