"""Comparisons with peers; run one as `python -m benchmarks.NAME` from the repository's root. Results are JSON in results/."""
