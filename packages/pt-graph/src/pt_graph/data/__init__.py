"""Graphs from files, libraries and generators."""
