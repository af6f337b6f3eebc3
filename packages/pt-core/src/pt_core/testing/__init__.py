"""Test support: a tiny backbone, data and task, and the conformance suite `check_method`."""
