"""Methods on ViT and Swin backbones for whole-image tasks."""
