"""Graph neural networks that are frozen: the molecular family, and small ones for other graphs."""
