"""Clips and what is asked about them: readers, record builders, and records as tokens and segments of features."""
