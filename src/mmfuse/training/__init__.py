"""The training loop for all methods and parts, its batches, its random numbers, and weights on disk."""
