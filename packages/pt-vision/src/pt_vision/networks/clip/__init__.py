"""CLIP-type networks as they come: by name, from weight files and folders, with their preprocessing and tokenizer."""
