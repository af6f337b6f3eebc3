"""The extra `pt-core[run]`: everything that happens when work starts. The contract files never import it."""
