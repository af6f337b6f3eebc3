"""Methods, one per file; see docs/adding-a-method.md."""
