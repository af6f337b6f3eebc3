"""Pictures of clouds, for reports."""
