"""The capture job: a shard of sequences through the model into statistics and trace, resumable."""
