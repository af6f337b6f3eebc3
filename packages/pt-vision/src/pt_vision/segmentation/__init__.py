"""Semantic segmentation: data with masks, the task, MiT networks with their heads, and self-training across domains."""
