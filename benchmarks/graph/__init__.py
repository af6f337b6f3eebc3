"""Measurements of pt-graph."""
