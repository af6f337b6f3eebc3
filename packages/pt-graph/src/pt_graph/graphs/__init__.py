"""Graphs as tensors: what data sets hand out and networks read."""
