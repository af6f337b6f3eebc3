"""Studies: many cells (runs) that share frozen networks, the data and the feature cache; the folder on disk is the truth."""
