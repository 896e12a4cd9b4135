"""Text: sources of documents, tokenising, packing into fixed-length sequences, shards and manifest."""
