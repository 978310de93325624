"""The hot path: a pack becomes batches."""
