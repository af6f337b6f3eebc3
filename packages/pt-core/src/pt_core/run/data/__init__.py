"""Samples in, keyed by id: audit, sampling and splits, streams, the feature cache, tables out."""
