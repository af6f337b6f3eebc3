"""`pt-audio pretrain`: the built-in models, trained on generated sound and generated text only."""
