"""Tasks that several packages share, with their metrics."""
