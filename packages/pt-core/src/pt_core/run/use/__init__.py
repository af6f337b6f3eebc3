"""What is done with a tuned method: prediction, mixed batches, programs for other runtimes, cost."""
