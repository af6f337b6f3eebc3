"""Pictures of graphs, for reports."""
