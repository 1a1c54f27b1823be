"""Training: the loop for every method and part, its batches, its random numbers, and weights on disk."""
