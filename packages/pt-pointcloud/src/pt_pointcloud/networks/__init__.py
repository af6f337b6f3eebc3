"""Point-MAE and Point-BERT: the frozen network, its weight files, and the modules that compute prompts and predictions."""
