"""The Parquet schemas of documents, of the vocabulary, and of shards of token sequences."""

import pyarrow as pa

DOCUMENTS = pa.schema(
    [
        pa.field("document", pa.int32(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
        pa.field("group", pa.string(), nullable=False),
        pa.field("domain", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("text", pa.large_string(), nullable=False),
    ]
)
"""Documents in order of ``document`` = 0, 1, …; all documents of a ``group`` are in one split."""

VOCABULARY = pa.schema(
    [
        pa.field("token_id", pa.int32(), nullable=False),
        pa.field("token", pa.string(), nullable=False),
        pa.field("special", pa.bool_(), nullable=False),
    ]
)
"""Every token id of the tokenizer, its text as a reader would see it, and whether it is a special token."""


def token_shard_schema(length: int) -> pa.Schema:
    """Schema of a shard of sequences of `length` tokens.

    ``sequence`` numbers the sequences of a split over all shards; a sequence has one domain; ``document`` says for
    every token which row of ``documents.parquet`` it came from, so that borders between documents stay visible.
    """
    return pa.schema(
        [
            pa.field("sequence", pa.int32(), nullable=False),
            pa.field("domain", pa.string(), nullable=False),
            pa.field("input_ids", pa.list_(pa.int32(), length), nullable=False),
            pa.field("document", pa.list_(pa.int32(), length), nullable=False),
        ]
    )
