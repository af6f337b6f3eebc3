"""Image classification: the base of its methods, their head, the pretraining of the built-in ViT, and the demo."""
