"""Glue to upstream libraries that several packages need: one file each, imported only where it is used, behind an extra of its name."""
