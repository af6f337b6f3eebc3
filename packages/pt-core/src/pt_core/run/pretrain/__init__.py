"""What the `pretrain` commands of the packages share: the loop, the learning rate over it, and what a recipe file holds."""
