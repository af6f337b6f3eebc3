"""Tasks of this package; classification is pt-core's."""
