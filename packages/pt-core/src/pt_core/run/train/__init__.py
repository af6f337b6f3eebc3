"""Stages in, tuned tensors out: processes, optimisers, the loop, checkpoints, the run folder, passes for evaluation."""
