"""What a package says of itself: options, methods, the modality, panels. Nothing here imports torch when it is imported."""
