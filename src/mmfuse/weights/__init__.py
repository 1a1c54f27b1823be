"""Trained weights: the shipped weights, in this folder, and the import of weights published by others."""
