"""Methods on CLIP-type networks, one per file."""
